//! Replays of what has happened, and of what may, in virtual time: the real gate and the real memory of documents in front of a modelled
//! app. Each scenario has a bar, which the worst of ten seeds must reach, and which (but for the two where the gate must only not do harm)
//! the best of ten seeds without the gate must miss.

mod world;

use world::{Arrivals, IMPORT, SYNC, Source, World};

/// The calm before what each scenario is about, in seconds.
const CALM: f64 = 20.0;

fn rate(per_second: f64) -> Arrivals {
    Arrivals::Rate(vec![(0.0, per_second)])
}

fn normal(arrivals: Arrivals) -> Source {
    Source { class: SYNC, arrivals, work: vec![(0.0, 0.015, 0.025)], clients: 5000, documents: 5000, fresh: 0.0 }
}

/// Large documents: syncs that no route tells from others.
fn large(arrivals: Arrivals, slow_from: f64) -> Source {
    let work = if slow_from > 0.0 { vec![(0.0, 0.3, 0.7), (slow_from, 10.0, 20.0)] } else { vec![(0.0, 10.0, 20.0)] };
    Source { class: SYNC, arrivals, work, clients: 300, documents: 300, fresh: 0.0 }
}

const NEVER: f64 = f64::MAX;

/// The measure of a scenario, over ten seeds with the gate and without: each seed's value, larger is better.
fn play(name: &str, sources: &[Source], workers: u32, end: f64, measure: impl Fn(&World) -> f64) -> ([f64; 10], [f64; 10]) {
    let run = |guarded| {
        std::array::from_fn(|seed| {
            let mut world = World::new(sources, workers, guarded, seed as u64 + 1);
            world.run(end);
            measure(&world)
        })
    };
    let (with, without): ([f64; 10], [f64; 10]) = (run(true), run(false));
    println!("{name}: worst of seeds 1 to 10 with the gate {:.4}, best without {:.4}", least(&with), most(&without));
    println!("    with {with:.4?}\n    without {without:.4?}");
    (with, without)
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

fn assert_bar(name: &str, (with, without): ([f64; 10], [f64; 10]), bar: f64) {
    assert!(least(&with) >= bar, "{name}: {:.4} is below the bar of {bar}", least(&with));
    assert!(most(&without) < bar, "{name}: even without the gate {:.4} reaches the bar of {bar}, so that it shows nothing", most(&without));
}

#[test]
fn imports_that_hang_leave_normal_syncs_alone() {
    let imports = Source {
        class: IMPORT,
        arrivals: Arrivals::Rate(vec![(0.0, 0.0), (CALM, 1.0)]),
        work: vec![(0.0, 60.0, 60.0)],
        clients: 1000,
        documents: 1000,
        fresh: 0.0,
    };
    let sources = [normal(rate(150.0)), large(rate(2.0), NEVER), imports];
    let result =
        play("imports 1/s that hang 60 s: normal within 1 s", &sources, 64, CALM + 180.0, |world| world.within(0, CALM, NEVER, 1.0));
    assert_bar("hung imports", result, 0.995);
}

#[test]
fn monday_begins_on_a_sick_app() {
    let jump = CALM + 60.0;
    let sources = [normal(Arrivals::Rate(vec![(0.0, 5.0), (jump, 600.0)])), large(rate(5.0), CALM)];
    let result = play("Monday jump: normal within 1 s in the first 15 s", &sources, 64, jump + 15.0, |world| {
        world.within(0, jump, jump + 15.0, 1.0)
    });
    assert_bar("Monday jump", result, 1.0);
}

#[test]
fn large_documents_that_nobody_has_seen_do_not_stop_the_known_ones() {
    let unseen = Source { fresh: 1.0, ..large(Arrivals::Rate(vec![(0.0, 0.0), (CALM, 5.0)]), 0.0) };
    let sources = [normal(rate(150.0)), large(rate(2.0), NEVER), unseen];
    let result =
        play("large documents nobody has seen: normal within 1 s", &sources, 64, CALM + 120.0, |world| world.within(0, CALM, NEVER, 1.0));
    assert_bar("unseen", result, 0.95);
}

#[test]
fn a_surge_of_imports_is_served_from_idle_seats() {
    let surge = |slow_from| {
        let normal = Source { work: vec![(0.0, 0.006, 0.010)], ..normal(rate(60.0)) };
        let imports = Source {
            class: IMPORT,
            arrivals: Arrivals::Rate(vec![(0.0, 0.0), (CALM, 2.0), (CALM + 60.0, 0.0)]),
            work: vec![(0.0, 3.0, 9.0)],
            clients: 1000,
            documents: 1000,
            fresh: 0.0,
        };
        [normal, large(rate(0.25), slow_from), imports]
    };
    for (name, slow_from) in [("import surge", NEVER), ("import surge, large documents turn slow", CALM + 30.0)] {
        let sources = surge(slow_from);
        let result = play(&format!("{name}: normal within 1 s"), &sources, 8, CALM + 60.0, |world| world.within(0, CALM, NEVER, 1.0));
        assert_bar(name, result, 1.0);
        let imports = play(&format!("{name}: imports answered"), &sources, 8, CALM + 60.0, |world| world.within(2, CALM, NEVER, NEVER));
        assert!(least(&imports.0) >= 0.6, "{name}: imports {:.4}", least(&imports.0));
    }
}

#[test]
fn everybody_coming_back_at_once_is_served_in_time() {
    let back = Source { clients: 3000, documents: 0, work: vec![(0.0, 0.05, 0.15)], ..normal(Arrivals::Once { from: 0.0, until: 2.0 }) };
    let sources = [back];
    let needed = 3000.0 * 0.1 / 64.0;
    let (with, _) = play("everybody comes back, caches cold: last answer", &sources, 64, 2.0, |world| {
        -world.wishes.iter().map(|wish| wish.answered.map_or(f64::INFINITY, |time| wish.sent + time)).fold(0.0, f64::max) / needed
    });
    assert!(least(&with) >= -3.0, "{:.2} times the work's time", -least(&with));
}

#[test]
fn a_heavy_client_costs_light_ones_little() {
    let heavy = Source {
        arrivals: Arrivals::Loop { parallel: 100, pause: 0.0 },
        clients: 1,
        work: vec![(0.0, 1.0, 1.0)],
        documents: 100,
        ..normal(rate(1.0))
    };
    let light = Source {
        arrivals: Arrivals::Loop { parallel: 1, pause: 0.2 },
        clients: 40,
        work: vec![(0.0, 0.02, 0.02)],
        documents: 40,
        fresh: 0.0,
        ..normal(rate(1.0))
    };
    let mut alone = World::new(std::slice::from_ref(&light), 64, true, 1);
    alone.run(60.0);
    let alone = alone.percentile(0, 0.0, NEVER, 0.99);
    let sources = [light, heavy];
    let result = play("one heavy client beside 40 light ones: - light p99 / alone", &sources, 64, 60.0, |world| {
        -world.percentile(0, 0.0, NEVER, 0.99) / alone
    });
    assert_bar("heavy client", result, -2.0);
}

#[test]
fn when_everything_is_slow_nothing_is_dear_and_nobody_starves() {
    let slower = |mut source: Source| {
        let (_, low, high) = source.work[0];
        source.work = vec![(0.0, low, high), (CALM, low * 10.0, high * 10.0)];
        source
    };
    let imports = Source { class: IMPORT, arrivals: rate(0.1), work: vec![(0.0, 0.3, 0.9)], clients: 100, documents: 100, fresh: 0.0 };
    let sources = [slower(normal(rate(150.0))), slower(large(rate(2.0), NEVER)), slower(imports)];
    let (dear, _) = play("everything 10 x slower: - normal requests of dear documents", &sources, 64, CALM + 120.0, |world| {
        -(world.sent(0, 0.0, NEVER).filter(|wish| wish.dear).count() as f64)
    });
    assert!(least(&dear) >= 0.0, "{} requests of documents that became dear", -least(&dear));
    for (source, name) in ["normal", "large", "import"].iter().enumerate() {
        let (answered, _) = play(&format!("everything 10 x slower: {name} answered within 10 s"), &sources, 64, CALM + 120.0, |world| {
            world.within(source, CALM, NEVER, 10.0)
        });
        assert!(least(&answered) >= 0.999, "{name} starves: {:.4}", least(&answered));
    }
}
