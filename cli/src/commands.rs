//! The verbs, one file each.

pub mod ask;
pub mod attach;
pub mod cp;
pub mod ls;
pub mod rm;
pub mod status;
