//! An answer in the form in which it is kept, and said again.
