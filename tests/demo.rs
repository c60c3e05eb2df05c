//! The demo, shortened: what tidegate is for, from outside.
#![cfg(feature = "demo")]
#![expect(clippy::expect_used, reason = "a test")]

use tidegate::lab::{
    Stage,
    display::Screen,
    figures::{Figures, Writes},
    scenario::Scenario,
    table,
};

fn percent(figures: &Figures) -> f64 {
    figures.incident.percent().expect("there was an incident")
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tidegate_normal_syncs_are_answered_during_the_outage_and_no_write_is_lost() {
    let scenario = Scenario::parse("short.toml", include_str!("../config/scenarios/short.toml")).expect("sound");
    let stage = Stage::set(scenario.clone()).await.expect("it starts");
    let results = stage.play(&mut Screen::silent()).await.expect("it can be counted");
    stage.clear().await;
    let shown = table::table(&scenario, &results.bare, &results.behind);
    assert!(percent(&results.behind) >= 90.0, "{shown}");
    assert!(percent(&results.bare) <= 50.0, "{shown}");
    for side in [&results.bare, &results.behind] {
        let Writes { acknowledged, lost, doubled, repeated } = side.writes;
        assert!(acknowledged > 50, "{shown}");
        assert_eq!((lost, doubled, repeated), (0, 0, 0), "{shown}");
    }
}
