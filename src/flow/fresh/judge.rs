//! Whether two answers are the same, volatile parts aside.
