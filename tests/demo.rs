//! The demo, shortened: what tidegate is for, from outside.
#![cfg(feature = "demo")]
#![expect(clippy::expect_used, reason = "a test")]

use tidegate::lab::{
    Stage,
    display::Screen,
    figures::{Figures, Share, Writes},
    scenario::Scenario,
    table::{self, goals},
    tally::Checked,
};

/// By so many percent a share may fall short here: the scenario is short, and the machine may be busy.
const ROOM: f64 = 5.0;

fn percent(share: Share) -> f64 {
    share.percent().expect("it happened")
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tidegate_syncs_are_answered_during_the_outage_and_none_wrongly() {
    let scenario = Scenario::parse("short.toml", include_str!("../config/scenarios/short.toml")).expect("sound");
    let stage = Stage::set(scenario.clone()).await.expect("it starts");
    let results = stage.play(&mut Screen::silent()).await.expect("it can be counted");
    stage.clear().await;
    let (bare, behind) = (&results.bare, &results.behind);
    let shown = table::table(&scenario, bare, behind);
    let in_phase = |figures: &Figures, phase: &str| {
        let index = scenario.phases.iter().position(|found| found.name == phase).expect("it is in the scenario");
        percent(figures.large_polls_by_phase[index])
    };
    assert!(percent(behind.incident) >= 90.0, "{shown}");
    assert!(percent(bare.incident) <= 50.0, "{shown}");
    assert!(table::saved(bare, behind).expect("there were no-op syncs") >= goals::SAVED - ROOM, "{shown}");
    assert!(in_phase(behind, "the table is de-optimised") >= goals::LARGE_POLLS - ROOM, "{shown}");
    assert!(in_phase(behind, "imports hang") >= goals::LARGE_POLLS_BESIDE_IMPORTS - ROOM, "{shown}");
    assert!(percent(behind.maintenance) >= goals::MAINTENANCE - ROOM, "{shown}");
    // What it had begun before it was stopped, it still answers.
    assert!(percent(bare.maintenance) <= 60.0, "{shown}");
    assert!(percent(bare.large_polls) <= 60.0, "{shown}");
    assert!(percent(behind.polls.spared()) >= 60.0 && percent(bare.polls.spared()) <= 0.0, "{shown}");
    for side in [bare, behind] {
        let Checked { answers, stale, backwards, foreign } = side.checked;
        assert!(answers > 500, "{shown}");
        assert_eq!((stale, backwards, foreign), (0, 0, 0), "{shown}");
        let Writes { acknowledged, lost, doubled, repeated } = side.writes;
        assert!(acknowledged > 20, "{shown}");
        assert_eq!((lost, doubled, repeated), (0, 0, 0), "{shown}");
    }
}
