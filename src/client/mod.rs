//! Clients: their names, what they may use, and how much.

mod grant;
mod limits;
mod name;

pub use self::name::ClientName;
pub(crate) use self::{grant::Grant, limits::Limits};
