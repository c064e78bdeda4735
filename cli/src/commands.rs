//! The verbs, one file each.

pub mod ask;
pub mod attach;
pub mod cp;
pub mod doctor;
pub mod documents;
pub mod extend;
pub mod files;
pub mod history;
pub mod login;
pub mod logs;
pub mod ls;
pub mod pause;
pub mod plan;
pub mod proxy;
pub mod rm;
pub mod run;
pub mod status;
