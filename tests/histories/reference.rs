//! The slow reference: it remembers every write, and computes each answer to "does this prove?" from all of them.

/// A set of documents, one bit each.
pub type Mask = u8;

/// Everything.
pub const ALL: Mask = Mask::MAX;

/// Documents that are no poll's own.
pub const OTHERS: Mask = 1 << 7;

/// How something that wrote stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Unsent,
    /// Ended, or told of; quiet from then on.
    Quiet(u64),
}

/// Something that wrote, or may have.
#[derive(Clone, Copy, Debug)]
struct Event {
    mask: Mask,
    /// The step in which it began.
    begun: u64,
    state: State,
}

/// All that ever wrote.
#[derive(Debug, Default)]
pub struct Reference {
    events: Vec<Event>,
    suspended: usize,
    /// Everything is in doubt before.
    start: u64,
}

impl Reference {
    /// Nothing is known, and everything in doubt until then.
    pub fn new(start: u64) -> Self {
        Self { start, ..Self::default() }
    }

    pub fn begin(&mut self, mask: Mask, step: u64) -> usize {
        self.events.push(Event { mask, begun: step, state: State::Running });
        self.events.len() - 1
    }

    pub fn unsent(&mut self, event: usize) {
        self.events[event].state = State::Unsent;
    }

    pub fn end(&mut self, event: usize, quiet_from: u64) {
        self.events[event].state = State::Quiet(quiet_from);
    }

    pub fn notice(&mut self, mask: Mask, step: u64, quiet_from: u64) {
        self.events.push(Event { mask, begun: step, state: State::Quiet(quiet_from) });
    }

    pub fn suspend(&mut self) {
        self.suspended += 1;
    }

    pub fn resume(&mut self) {
        self.suspended -= 1;
    }

    /// Rule 7: nobody writes these, and all who did have long ended.
    pub fn is_solid(&self, mask: Mask, now: u64) -> bool {
        let lasts = |event: &Event| match event.state {
            _ if event.mask & mask == 0 => true,
            State::Running => false,
            State::Unsent => true,
            State::Quiet(from) => from <= now,
        };
        self.start <= now && self.events.iter().all(lasts)
    }

    /// Rule 9, its age and solidity aside: nothing of these has begun since that step, and nothing runs that may be anything.
    pub fn is_unchanged(&self, mask: Mask, asked: u64) -> bool {
        self.suspended == 0 && self.events.iter().all(|event| event.mask & mask == 0 || event.begun <= asked)
    }
}
