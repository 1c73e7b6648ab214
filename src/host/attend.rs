//! **attend**
