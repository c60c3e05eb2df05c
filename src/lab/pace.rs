//! Incident time: the demo plays an incident some times faster than life, and shows and reads all times as of the incident.

use std::time::Duration;

/// How many seconds of the incident pass in one second by the clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace(pub f64);

impl Pace {
    /// How long a span of the incident takes by the clock.
    #[must_use]
    pub fn clock(self, incident: Duration) -> Duration {
        incident.div_f64(self.0)
    }

    /// How long a span by the clock is in the incident.
    #[must_use]
    pub fn incident(self, clock: Duration) -> Duration {
        clock.mul_f64(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_the_incident_takes_a_tenth_by_the_clock() {
        let pace = Pace(10.0);
        assert_eq!(pace.clock(Duration::from_secs(1)), Duration::from_millis(100));
        assert_eq!(pace.incident(pace.clock(Duration::from_secs(30))), Duration::from_secs(30));
    }
}
