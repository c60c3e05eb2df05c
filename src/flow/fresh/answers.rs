//! What the app said, kept within a bound of bytes.
