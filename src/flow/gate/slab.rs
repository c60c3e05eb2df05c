//! Storage without allocation in the steady state: a slab with generations, and lists whose links stand in its entries.

use std::ops::{Index, IndexMut};

/// The index that names nothing.
pub const NIL: u32 = u32::MAX;

/// Names an entry of a [`Slab`] for as long as it is there, and nothing afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The slot.
    pub index: u32,
    generation: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    next_free: u32,
    value: Option<T>,
}

/// Values under small indices that are used again; grows to the most that were there at a time.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: u32,
}

impl<T> Slab<T> {
    /// An empty slab.
    pub fn new() -> Self {
        Self { slots: Vec::new(), free: NIL }
    }

    /// Puts a value in. At most 2^32 - 1 are possible, far above every bound on what is queued or runs.
    pub fn insert(&mut self, value: T) -> Key {
        if self.free != NIL {
            let index = self.free;
            let slot = &mut self.slots[index as usize];
            self.free = slot.next_free;
            slot.value = Some(value);
            return Key { index, generation: slot.generation };
        }
        let index = u32::try_from(self.slots.len()).expect("bounded by memory long before 2^32 entries");
        self.slots.push(Slot { generation: 0, next_free: NIL, value: Some(value) });
        Key { index, generation: 0 }
    }

    /// Takes out what stands at an index.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let slot = self.slots.get_mut(index as usize)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.next_free = self.free;
        self.free = index;
        Some(value)
    }

    /// What a key names, if it is still there.
    pub fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        if slot.generation == key.generation { slot.value.as_ref() } else { None }
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation == key.generation { slot.value.as_mut() } else { None }
    }

    /// The key of an index that holds a value.
    pub fn key(&self, index: u32) -> Key {
        Key { index, generation: self.slots[index as usize].generation }
    }

    /// Everything that is there.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0u32..).zip(&self.slots).filter_map(|(index, slot)| slot.value.as_ref().map(|value| (index, value)))
    }

    /// How many values there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.iter().count()
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        self.slots[index as usize].value.as_ref().expect("an index is kept only while its entry is there")
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        self.slots[index as usize].value.as_mut().expect("an index is kept only while its entry is there")
    }
}

/// The neighbours of an entry in one list.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    prev: u32,
    next: u32,
}

impl Default for Link {
    fn default() -> Self {
        Self { prev: NIL, next: NIL }
    }
}

/// An entry that can stand in several lists at once, one per `which`.
pub trait Linked {
    /// Its link in the lists of this kind.
    fn link(&mut self, which: usize) -> &mut Link;
    /// The same, to be read.
    fn link_ref(&self, which: usize) -> Link;
    /// What [`List::insert`] sorts by.
    fn order(&self) -> u64;
}

/// A doubly linked list of slab entries.
#[derive(Clone, Copy, Debug)]
pub struct List {
    which: usize,
    head: u32,
    tail: u32,
}

impl List {
    /// An empty list over the links of kind `which`.
    pub fn new(which: usize) -> Self {
        Self { which, head: NIL, tail: NIL }
    }

    /// The first entry.
    pub fn head(&self) -> Option<u32> {
        (self.head != NIL).then_some(self.head)
    }

    /// The last entry.
    pub fn tail(&self) -> Option<u32> {
        (self.tail != NIL).then_some(self.tail)
    }

    /// Appends an entry.
    pub fn push<T: Linked>(&mut self, slab: &mut Slab<T>, index: u32) {
        *slab[index].link(self.which) = Link { prev: self.tail, next: NIL };
        if self.tail == NIL {
            self.head = index;
        } else {
            slab[self.tail].link(self.which).next = index;
        }
        self.tail = index;
    }

    /// Puts an entry where its order belongs, looked for from the end.
    pub fn insert<T: Linked>(&mut self, slab: &mut Slab<T>, index: u32) {
        let order = slab[index].order();
        let mut before = self.tail;
        while before != NIL && slab[before].order() > order {
            before = slab[before].link_ref(self.which).prev;
        }
        if before == self.tail {
            return self.push(slab, index);
        }
        let next = if before == NIL { self.head } else { slab[before].link_ref(self.which).next };
        *slab[index].link(self.which) = Link { prev: before, next };
        slab[next].link(self.which).prev = index;
        if before == NIL {
            self.head = index;
        } else {
            slab[before].link(self.which).next = index;
        }
    }

    /// Takes out an entry that stands in this list.
    pub fn remove<T: Linked>(&mut self, slab: &mut Slab<T>, index: u32) {
        let Link { prev, next } = std::mem::take(slab[index].link(self.which));
        if prev == NIL {
            self.head = next;
        } else {
            slab[prev].link(self.which).next = next;
        }
        if next == NIL {
            self.tail = prev;
        } else {
            slab[next].link(self.which).prev = prev;
        }
    }

    /// The entry after this one.
    pub fn next<T: Linked>(&self, slab: &Slab<T>, index: u32) -> Option<u32> {
        let next = slab[index].link_ref(self.which).next;
        (next != NIL).then_some(next)
    }
}
