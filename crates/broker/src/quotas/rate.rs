//! Rates over sampled windows, as Kafka measures them (`Rate`, `SampledStat`): what counts against a quota, and how
//! long to wait until it is kept again.

/// `quota.window.num` samples of `quota.window.size.seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub samples: usize,
    pub size_ms: i64,
}

impl Window {
    pub fn new(samples: i32, seconds: i32) -> Self {
        Self { samples: samples.max(1) as usize, size_ms: i64::from(seconds.max(1)) * 1000 }
    }

    /// What a rate of 1 per second lets pass in all whole windows.
    pub fn whole_seconds(&self) -> f64 {
        (self.samples.saturating_sub(1) as i64 * self.size_ms) as f64 / 1000.0
    }

    fn age_max_ms(&self) -> i64 {
        self.samples as i64 * self.size_ms
    }
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    start_ms: i64,
    last_ms: i64,
    value: f64,
}

/// Invariants: at most `window.samples + 1` samples, `current` names one of them unless there is none.
#[derive(Clone, Debug)]
pub(crate) struct Rate {
    window: Window,
    samples: Vec<Sample>,
    current: usize,
    /// Replication is measured over the time that has passed, clients over at least all whole windows: a burst after
    /// silence is not yet a violation.
    over_elapsed: bool,
}

impl Rate {
    pub fn new(window: Window) -> Self {
        Self { window, samples: Vec::new(), current: 0, over_elapsed: false }
    }

    /// `SimpleRate`.
    pub fn over_elapsed(window: Window) -> Self {
        Self { over_elapsed: true, ..Self::new(window) }
    }

    pub fn record(&mut self, value: f64, now_ms: i64) {
        let fresh = Sample { start_ms: now_ms, last_ms: now_ms, value: 0.0 };
        match self.samples.get(self.current) {
            None => self.samples.push(fresh),
            Some(sample) if now_ms - sample.start_ms >= self.window.size_ms => {
                self.current = (self.current + 1) % (self.window.samples + 1);
                match self.samples.get_mut(self.current) {
                    Some(oldest) => *oldest = fresh,
                    None => self.samples.push(fresh),
                }
            }
            Some(_) => {}
        }
        let sample = &mut self.samples[self.current];
        sample.value += value;
        sample.last_ms = now_ms;
    }

    /// What was counted within the window, and over how many milliseconds.
    fn measure(&mut self, now_ms: i64) -> (f64, i64) {
        let age_max_ms = self.window.age_max_ms();
        for sample in &mut self.samples {
            if now_ms - sample.last_ms >= age_max_ms {
                *sample = Sample { start_ms: now_ms, last_ms: now_ms, value: 0.0 };
            }
        }
        let total = self.samples.iter().map(|sample| sample.value).sum();
        let oldest = self.samples.iter().map(|sample| sample.start_ms).min().unwrap_or(now_ms);
        let mut elapsed_ms = now_ms - oldest;
        if self.over_elapsed {
            return (total, elapsed_ms.max(self.window.size_ms));
        }
        let whole = elapsed_ms / self.window.size_ms;
        let missing = (self.window.samples as i64 - 1 - whole).max(0);
        elapsed_ms += missing * self.window.size_ms;
        (total, elapsed_ms.max(1))
    }

    /// How long nothing may come until the rate is within `limit` per second; 0 if it is.
    pub fn wait_ms(&mut self, limit: f64, now_ms: i64) -> i64 {
        let (total, window_ms) = self.measure(now_ms);
        let rate = total / (window_ms as f64 / 1000.0);
        if rate <= limit {
            return 0;
        }
        ((rate - limit) / limit * window_ms as f64).round() as i64
    }

    /// Nothing was counted for so long that a new rate would be the same.
    pub fn is_quiet(&self, now_ms: i64) -> bool {
        self.samples.iter().all(|sample| now_ms - sample.last_ms >= self.window.age_max_ms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_counted_over_ten_windows() {
        let mut rate = Rate::new(Window::new(11, 1));
        rate.record(20_000.0, 5_000);
        // 20,000 over ten seconds: twice the limit, so that another ten seconds must pass.
        assert_eq!(rate.wait_ms(1_000.0, 5_000), 10_000);
        assert_eq!(rate.wait_ms(2_000.0, 5_000), 0);
        // Half of them have passed.
        assert_eq!(rate.wait_ms(1_000.0, 10_000), 10_000);
        // Ten windows later the elapsed time counts, and one more and the burst is forgotten.
        assert_eq!(rate.wait_ms(1_900.0, 15_500), 26);
        assert_eq!(rate.wait_ms(1.0, 16_000), 0);
        assert!(!rate.is_quiet(26_000) && rate.is_quiet(27_000));
    }

    #[test]
    fn samples_are_bounded_and_old_ones_go() {
        let mut rate = Rate::new(Window::new(3, 1));
        for second in 0..100 {
            rate.record(100.0, second * 1_000);
        }
        assert_eq!(rate.samples.len(), 4);
        assert_eq!(rate.wait_ms(150.0, 99_000), 0, "300 in what is left of three windows");
        assert!(rate.wait_ms(149.0, 99_000) > 0);
    }

    #[test]
    fn replication_is_measured_over_the_time_that_passed() {
        let mut rate = Rate::over_elapsed(Window::new(11, 1));
        rate.record(2_000.0, 0);
        assert!(rate.wait_ms(1_000.0, 0) > 0, "at least one window");
        assert_eq!(rate.wait_ms(1_000.0, 2_000), 0);
    }
}
