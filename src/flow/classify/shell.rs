//! Reads a request far enough to class it, within bounds of bytes, memory and time.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, request::Parts};

use crate::{
    flow::accept::Checked,
    profile::{BodySeen, Profile, Reading},
    wire::{
        Body, Budget, Fault, Upload,
        upload::{Beginning, Progress},
    },
};

/// Memory that is held for one body until the request has ended.
#[derive(Debug)]
pub struct Hold {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Hold {
    fn take(budget: &Arc<Budget>, bytes: u64) -> Option<Self> {
        budget.take(bytes).then(|| Self { budget: Arc::clone(budget), bytes })
    }
}

impl Hold {
    /// Gives back what the body turned out not to need.
    fn shrink(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.budget.give_back(surplus);
        self.bytes -= surplus;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

/// A request that was read: what it is, and its body, ready to be passed on.
#[derive(Debug)]
pub struct Read {
    /// What it is.
    pub reading: Reading,
    /// Its body.
    pub body: Body,
    /// How the client's sending stands, where it goes on.
    pub progress: Option<Arc<Progress>>,
    /// The bytes that have come.
    pub bytes: u64,
    /// The memory that is held for it.
    pub hold: Option<Hold>,
}

/// What is known of the request before its body is read.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Its head.
    pub head: &'a Parts,
    /// What its head asks for.
    pub checked: Checked,
    /// Who sent it.
    pub client: IpAddr,
    /// The most bytes that are read before the queue.
    pub bytes_max: usize,
}

/// Reads the body as far as it may be, and the request. A body that fits is read whole, on every route, unless its client waits for
/// `100 Continue` and the route does not inspect. When this is dropped, the upload is dropped with it.
///
/// # Errors
/// How the client's body failed.
pub async fn read(profile: &Profile, arrival: &Arrival<'_>, mut upload: Upload, memory: &Arc<Budget>) -> Result<Read, Fault> {
    let Arrival { head, checked, client, bytes_max } = *arrival;
    let seen = |body: BodySeen<'_>| profile.read(head, body, client);
    if !checked.body {
        let reading = seen(BodySeen::Whole(&[]));
        return Ok(Read { reading, body: Body::Empty, progress: None, bytes: 0, hold: None });
    }
    let longer = checked.length.is_some_and(|length| length > bytes_max as u64);
    if (checked.expects || longer) && !profile.inspects(head) {
        return Ok(streaming(seen(BodySeen::Prefix(&[])), upload, None));
    }
    let need = checked.length.map_or(bytes_max as u64, |length| length.min(bytes_max as u64));
    let Some(mut hold) = Hold::take(memory, need) else {
        return Ok(streaming(seen(BodySeen::Unread), upload, None));
    };
    match upload.begin(bytes_max).await? {
        Beginning::Whole(bytes, trailers) => {
            let reading = seen(BodySeen::Whole(&bytes));
            let size = bytes.len() as u64;
            hold.shrink(size);
            Ok(Read { reading, body: whole(bytes, trailers), progress: None, bytes: size, hold: Some(hold) })
        }
        Beginning::Prefix(prefix) => Ok(streaming(seen(BodySeen::Prefix(&prefix)), upload, Some(hold))),
    }
}

fn whole(bytes: Bytes, trailers: Option<HeaderMap>) -> Body {
    if trailers.is_some() { Body::Trailed(bytes, trailers) } else { Body::full(bytes) }
}

fn streaming(reading: Reading, upload: Upload, hold: Option<Hold>) -> Read {
    let progress = upload.progress();
    Read { reading, body: Body::Upload(Box::new(upload)), progress: Some(progress), bytes: 0, hold }
}
