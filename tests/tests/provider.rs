//! The provider's client against the simulator: every documented answer, every fault; and the simulator against RunPod's own document.

mod provider {
    mod answers;
    mod containers;
    mod faults;
    mod lists;
    mod logs;
    mod openapi;
    mod peers;
    mod server;
    mod setting;
}
