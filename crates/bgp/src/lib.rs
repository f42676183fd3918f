//! A BGP speaker with no sockets and no clock.
#![forbid(unsafe_code)]

pub mod config;
