//! The ChatSession controller.

pub mod decide;
pub mod ledger;
pub mod observe;
