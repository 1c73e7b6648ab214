//! The candle adapter.
#![forbid(unsafe_code)]
