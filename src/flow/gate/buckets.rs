//! Token buckets: a stand-in.
use std::time::Duration;

use crate::{clock::Moment, config::settings::Rate};

#[derive(Debug)]
pub struct Buckets {}

impl Buckets {
    pub fn new(_keys_max: usize) -> Self {
        Self {}
    }
    pub fn take(&self, _group: u8, _key: u64, _now: Moment) -> Result<(), Duration> {
        Ok(())
    }
    pub fn give_back(&self, _group: u8, _key: u64, _now: Moment) {}
    pub fn reload(&self, _rates: &[Option<Rate>], _now: Moment) {}
    pub fn sweep(&self, _now: Moment) {}
    pub fn len(&self) -> usize {
        0
    }
}
