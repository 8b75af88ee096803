//! `max.connection.creation.rate`: how many connections may be made in a second. Who comes too early waits in the kernel.

/// A second's worth may come at once, as after a quiet second.
pub struct Creations {
    /// Per second; `i32::MAX` is no limit.
    rate: i32,
    left: f64,
    at_ms: i64,
}

impl Creations {
    pub fn new(rate: i32, now_ms: i64) -> Creations {
        Creations { rate, left: f64::from(rate), at_ms: now_ms }
    }

    pub fn set_rate(&mut self, rate: i32) {
        self.rate = rate;
        self.left = self.left.min(f64::from(rate));
    }

    /// Whether one more may be made now.
    pub fn may(&mut self, now_ms: i64) -> bool {
        if self.rate == i32::MAX {
            return true;
        }
        let rate = f64::from(self.rate.max(0));
        self.left = (self.left + rate * (now_ms - self.at_ms).max(0) as f64 / 1000.0).min(rate.max(1.0));
        self.at_ms = now_ms;
        self.left >= 1.0
    }

    pub fn made(&mut self) {
        self.left -= 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_rate() {
        let mut creations = Creations::new(i32::MAX, 0);
        assert!(creations.may(0));
        creations.set_rate(10);
        let mut made = 0;
        for now_ms in 0..5_000 {
            while creations.may(now_ms) {
                creations.made();
                made += 1;
            }
        }
        assert!((50..=60).contains(&made), "{made}");
    }
}
