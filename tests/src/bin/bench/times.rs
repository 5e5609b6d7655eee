//! Measured times, and what is said of them.

use std::time::Duration;

/// In milliseconds.
#[derive(Clone, Default)]
pub struct Times(Vec<f64>);

impl Times {
    /// One more.
    pub fn push(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e3);
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that `share` of all (0 to 1) do not exceed; not a number when there are none.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1) as f64;
        let place = (last * share).round() as usize;
        sorted.get(place).copied().unwrap_or(f64::NAN)
    }

    /// Half of them.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// What it takes when nothing disturbs it: the best tenth.
    pub fn p10(&self) -> f64 {
        self.quantile(0.1)
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(all: I) -> Self {
        let mut times = Self::default();
        for time in all {
            times.push(time);
        }
        times
    }
}
