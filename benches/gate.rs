//! What admission costs: a request that meets nobody, one beside a thousand that wait, and a mix of all classes.

use std::{
    collections::VecDeque,
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use divan::{Bencher, black_box};
use tidegate::{
    config::Settings,
    flow::gate::{Gate, Permit},
    model::{Class, ClientKey, DocumentKey, Intent},
};

fn main() {
    divan::main();
}

fn gate(seats: u32) -> Gate {
    let mut settings = Settings::defaults();
    settings.app.seats = seats;
    for class in &mut settings.class {
        class.queue_max = 100_000;
    }
    Gate::new(&settings, Box::new(|_| {}))
}

fn intent(class: u8, client: u64) -> Intent {
    Intent {
        class: Class(class),
        long: Class(2),
        client: ClientKey(client),
        documents: [DocumentKey(client)].into_iter().collect(),
        writes: false,
        unseen: false,
        stream: false,
    }
}

/// A seat that is there at once.
fn at_once(gate: &Gate, intent: Intent) -> Permit {
    match pin!(gate.enter(intent)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(permit)) => permit,
        _ => unreachable!("a seat is free"),
    }
}

#[divan::bench]
fn enter_and_leave_alone(bencher: Bencher) {
    let gate = gate(64);
    bencher.bench_local(|| drop(black_box(at_once(&gate, intent(1, 7)))));
}

#[divan::bench]
fn enter_and_leave_as_one_of_many_clients(bencher: Bencher) {
    let gate = gate(64);
    let mut client = 0;
    bencher.bench_local(|| {
        client = (client + 1) % 10_000;
        drop(black_box(at_once(&gate, intent(1, client))));
    });
}

/// All seats are taken and a thousand wait: one more comes, waits and goes.
#[divan::bench]
fn wait_and_go_beside_a_thousand(bencher: Bencher) {
    let gate = gate(64);
    let _seats: Vec<Permit> = (0..64).map(|client| at_once(&gate, intent(1, client))).collect();
    let mut waiting: Vec<_> = (0..1000).map(|client| Box::pin(gate.enter(intent(1, client)))).collect();
    for waiter in &mut waiting {
        assert!(waiter.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    bencher.bench_local(|| {
        let mut waiter = pin!(gate.enter(intent(1, 5000)));
        black_box(waiter.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending())
    });
}

/// All seats are taken and a thousand wait: a seat goes to the next one, and a newcomer takes its place in the queue.
#[divan::bench]
fn hand_over_beside_a_thousand(bencher: Bencher) {
    let gate = gate(64);
    let mut seats: VecDeque<Permit> = (0..64).map(|client| at_once(&gate, intent(1, client))).collect();
    let mut context = Context::from_waker(Waker::noop());
    let mut clients = 64..;
    let mut newcomer = || {
        let mut waiter = Box::pin(gate.enter(intent(1, clients.next().unwrap_or(0))));
        assert!(waiter.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        waiter
    };
    let mut waiting: VecDeque<_> = (0..1000).map(|_| newcomer()).collect();
    bencher.bench_local(|| {
        drop(seats.pop_front());
        if let Some(mut next) = waiting.pop_front()
            && let Poll::Ready(Ok(permit)) = next.as_mut().poll(&mut context)
        {
            seats.push_back(permit);
        }
        waiting.push_back(newcomer());
    });
    assert_eq!(seats.len(), 64, "a waiter was overtaken");
}

/// Sixteen requests of all classes, some of which run beside each other.
#[divan::bench]
fn sixteen_of_all_classes(bencher: Bencher) {
    let gate = gate(64);
    bencher.bench_local(|| {
        let permits: [Permit; 16] = std::array::from_fn(|number| {
            let number = number as u64;
            let class = [0, 0, 1, 1, 1, 2, 3, 4][usize::try_from(number % 8).unwrap_or(0)];
            at_once(&gate, Intent { writes: number.is_multiple_of(3), ..intent(class, number) })
        });
        black_box(permits)
    });
}
