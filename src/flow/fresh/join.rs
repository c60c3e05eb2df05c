//! Who asks the same question: at most one asks the app, and one waits.
