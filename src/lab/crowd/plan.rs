//! The crowd's plan: who there is, whose documents, and when each wants to sync. Drawn from the scenario's seed alone, so that both
//! sides get the same crowd, whatever answers it gets.

use std::{collections::HashSet, sync::Arc, time::Duration};

use crate::lab::{scenario::Scenario, service::store::Seed};

/// What a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The service's own app with a document of usual size open.
    App,
    /// The same with a large document.
    Large,
    /// A client of the public API, which watches several documents.
    Api,
}

/// One client.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its user's token: two devices of one user show the same.
    pub token: String,
    /// What it is.
    pub role: Role,
    /// Its documents; the first is its user's, and the one that it changes.
    pub documents: Vec<String>,
    /// It is there in phases whose `present` is above this.
    pub rank: f64,
    /// Whether it waits for as long as `Retry-After` says.
    pub honours_retry_after: bool,
    /// What it does is drawn from this.
    pub seed: u64,
}

/// Everybody, in the same order for the same scenario.
#[must_use]
pub fn members(scenario: &Scenario) -> Vec<Member> {
    let mut random = fastrand::Rng::with_seed(scenario.seed);
    let crowd = &scenario.crowd;
    let mut members = Vec::new();
    for (role, count) in [(Role::App, crowd.clients), (Role::Large, crowd.large_clients), (Role::Api, crowd.api_clients)] {
        let ranks = shuffled(count, &mut random);
        let honours = shuffled(count, &mut random);
        let users = if role == Role::Api { count } else { users(count, crowd.two_devices) };
        members.extend((0..count).zip(ranks.into_iter().zip(honours)).map(|(index, (rank, honour))| Member {
            name: name(role, index),
            token: name(role, index % users),
            role,
            documents: documents_of(role, index % users, users),
            rank,
            honours_retry_after: honour < crowd.honour_retry_after,
            seed: random.u64(..),
        }));
    }
    members
}

/// How many users have so many devices, if this share of them has two and the others have one.
fn users(devices: u32, two_devices: f64) -> u32 {
    (1..devices).find(|users| f64::from(*users) * (1.0 + two_devices) >= f64::from(devices) - 0.5).unwrap_or(devices).max(1)
}

fn name(role: Role, index: u32) -> String {
    let letter = match role {
        Role::App => 'u',
        Role::Large => 'l',
        Role::Api => 'a',
    };
    format!("{letter}{index}")
}

/// A client of the API watches its own document and those of its two neighbours, so that it sees changes of others.
fn documents_of(role: Role, index: u32, count: u32) -> Vec<String> {
    let watched = if role == Role::Api { 3.min(count) } else { 1 };
    (0..watched).map(|step| format!("document-{}", name(role, (index + step) % count))).collect()
}

/// Evenly spaced shares in (0, 1) in random order, so that a share of a role is met exactly.
fn shuffled(count: u32, random: &mut fastrand::Rng) -> Vec<f64> {
    let mut shares: Vec<f64> = (0..count).map(|index| (f64::from(index) + 0.5) / f64::from(count)).collect();
    random.shuffle(&mut shares);
    shares
}

/// The documents that there are at the start.
#[must_use]
pub fn documents(scenario: &Scenario, members: &[Member]) -> Vec<Seed> {
    let rows = |role| if role == Role::Large { scenario.service.rows_large } else { scenario.service.rows };
    let mut known = HashSet::new();
    let own = members.iter().filter_map(|member| Some((member.documents.first()?, member.role)));
    own.filter(|(file_id, _)| known.insert(*file_id)).map(|(file_id, role)| Seed { file_id: file_id.clone(), rows: rows(role) }).collect()
}

/// When imports begin, in incident time since the start.
#[must_use]
pub fn imports(scenario: &Scenario) -> Vec<Duration> {
    let mut random = fastrand::Rng::with_seed(scenario.seed ^ 0x1390);
    let mut begins = Vec::new();
    let mut start = Duration::ZERO;
    for phase in &scenario.phases {
        let end = start + phase.lasts;
        let mut at = start;
        if phase.imports_per_second > 0.0 {
            loop {
                // Independent arrivals: exponential gaps.
                at += Duration::from_secs_f64(-(1.0 - random.f64()).ln() / phase.imports_per_second);
                if at >= end {
                    break;
                }
                begins.push(at);
            }
        }
        start = end;
    }
    begins
}

/// When one client wants to sync.
#[derive(Debug)]
pub struct Ticks {
    scenario: Arc<Scenario>,
    interval: Duration,
    rank: f64,
    random: fastrand::Rng,
}

impl Ticks {
    /// Those of one client.
    #[must_use]
    pub fn of(member: &Member, scenario: &Arc<Scenario>) -> Self {
        let crowd = &scenario.crowd;
        let interval = if member.role == Role::Large { crowd.large_poll_interval } else { crowd.poll_interval };
        Self { scenario: Arc::clone(scenario), interval, rank: member.rank, random: fastrand::Rng::with_seed(member.seed) }
    }

    /// The next one after `last`, in incident time since the start, and whether there is a change to send; `None` when the
    /// scenario is over.
    pub fn next(&mut self, last: Option<Duration>) -> Option<(Duration, bool)> {
        let mut due = match last {
            Some(last) => last + self.gap(last),
            None => self.arrival(),
        };
        loop {
            let (_, phase, end) = self.scenario.phase_at(due)?;
            if self.rank < phase.present {
                return Some((due, self.random.f64() < self.scenario.crowd.writes));
            }
            due = end + self.arrival();
        }
    }

    fn gap(&mut self, at: Duration) -> Duration {
        let rate = self.scenario.phase_at(at).map_or(1.0, |(_, phase, _)| phase.rate);
        self.interval.mul_f64((0.8 + 0.4 * self.random.f64()) / rate)
    }

    fn arrival(&mut self) -> Duration {
        self.scenario.crowd.arrival.mul_f64(self.random.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario() -> Arc<Scenario> {
        Arc::new(Scenario::shipped().expect("shipped"))
    }

    fn ticks(scenario: &Arc<Scenario>) -> Vec<(String, Duration, bool)> {
        let mut all = Vec::new();
        for member in members(scenario) {
            let mut ticks = Ticks::of(&member, scenario);
            let mut last = None;
            while let Some((due, writes)) = ticks.next(last) {
                all.push((member.name.clone(), due, writes));
                last = Some(due);
            }
        }
        all
    }

    #[test]
    fn the_same_seed_makes_the_same_plan() {
        let scenario = scenario();
        assert_eq!(members(&scenario), members(&scenario));
        assert_eq!(imports(&scenario), imports(&scenario));
        assert_eq!(ticks(&scenario), ticks(&scenario));
        let mut other = Scenario::clone(&scenario);
        other.seed += 1;
        assert_ne!(ticks(&scenario), ticks(&Arc::new(other)));
    }

    #[test]
    fn the_planned_share_of_each_role_is_there() {
        let scenario = scenario();
        let ticks = ticks(&scenario);
        let mut start = Duration::ZERO;
        for phase in &scenario.phases {
            let end = start + phase.lasts;
            let mut there: Vec<&str> =
                ticks.iter().filter(|(_, due, _)| (start..end).contains(due)).map(|(name, ..)| name.as_str()).collect();
            there.sort_unstable();
            there.dedup();
            let of_app = there.iter().filter(|name| name.starts_with('u')).count();
            let wanted = phase.present * f64::from(scenario.crowd.clients);
            assert!((f64::from(u32::try_from(of_app).expect("few")) - wanted).abs() < 1.0, "{}: {of_app} of {wanted}", phase.name);
            start = end;
        }
    }

    #[test]
    fn a_third_of_the_documents_is_open_on_two_devices_of_one_user() {
        let scenario = scenario();
        let members = members(&scenario);
        for (letter, devices) in [('u', scenario.crowd.clients), ('l', scenario.crowd.large_clients)] {
            let mut of = std::collections::HashMap::<&str, Vec<&Member>>::new();
            for member in members.iter().filter(|member| member.name.starts_with(letter)) {
                of.entry(&member.documents[0]).or_default().push(member);
            }
            assert_eq!(of.values().map(Vec::len).sum::<usize>(), devices as usize);
            assert!(of.values().all(|devices| devices.len() <= 2 && devices.iter().all(|device| device.token == devices[0].token)));
            let two = of.values().filter(|devices| devices.len() == 2).count();
            assert!(of.len().abs_diff(3 * two) <= 2, "{two} of {}", of.len());
        }
        let seeds = documents(&scenario, &members);
        let distinct: HashSet<&str> = seeds.iter().map(|seed| seed.file_id.as_str()).collect();
        assert_eq!(seeds.len(), distinct.len());
    }

    #[test]
    fn imports_come_at_the_rate_of_their_phase() {
        let scenario = scenario();
        let expected: f64 = scenario.phases.iter().map(|phase| phase.imports_per_second * phase.lasts.as_secs_f64()).sum();
        let count = f64::from(u32::try_from(imports(&scenario).len()).expect("few"));
        assert!((count - expected).abs() < 4.0 * expected.sqrt(), "{count} imports, {expected} expected");
    }
}
