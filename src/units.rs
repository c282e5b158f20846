//! Units as types.
