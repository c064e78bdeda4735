//! The rig: everything srchat talks to, real wherever it can be.

pub mod cache;
pub mod clients;
pub mod cluster;
pub mod control_plane;
pub mod demo;
pub mod deployed;
pub mod eventually;
pub mod explain;
pub mod hosts;
pub mod hub;
pub mod image;
pub mod model;
pub mod node;
pub mod operator_binaries;
pub mod process;
pub mod recording;
pub mod requirements;
pub mod rig;
pub mod runpod;
pub mod scripted_engine;
pub mod skipped;
pub mod sshd;
pub mod stand_ins;
pub mod terminal;
pub mod tools;
pub mod wire;
