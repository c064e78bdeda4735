//! The rig: everything srchat talks to, real wherever it can be.

pub mod hosts;
