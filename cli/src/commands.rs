//! The verbs, one file each.

pub mod ask;
pub mod attach;
pub mod cp;
pub mod documents;
pub mod extend;
pub mod files;
pub mod logs;
pub mod ls;
pub mod pause;
pub mod rm;
pub mod status;
