//! Scopes as keys of the ledger.
