//! A host's whole life, in real machines with a real sshd and real shells: boot, trust, deploy, visit, close, clear, and what
//! the watchdog does when nobody comes.

mod host {
    mod bounds;
    mod engines;
    mod failures;
    mod life;
    mod machine;
    mod repository;
    mod watchdog;
}
