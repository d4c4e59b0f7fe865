//! The learning rate as a function of consumed samples: linear warm-up, then cosine decay.

use rebloom_core::spec::Optimizer;

/// The rate of the step that begins with `consumed` samples consumed. `all` are the samples of the whole
/// run, at which the decay ends where the settings do not say.
pub fn learning_rate(settings: &Optimizer, consumed: u64, all: u64) -> f64 {
    let (most, least) = (settings.learning_rate, settings.min_learning_rate);
    let warmup = settings.warmup_samples;
    let end = if settings.decay_samples == 0 {
        all
    } else {
        settings.decay_samples
    };
    if warmup > 0 && consumed <= warmup {
        return most * consumed as f64 / warmup as f64;
    }
    if consumed > end {
        return least;
    }
    let done = (consumed - warmup) as f64 / end.saturating_sub(warmup).max(1) as f64;
    least + 0.5 * ((std::f64::consts::PI * done).cos() + 1.0) * (most - least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rates_are_those_of_blooms_log() {
        let bloom = Optimizer {
            learning_rate: 6e-5,
            min_learning_rate: 6e-6,
            warmup_samples: 183_105,
            decay_samples: 200_000_000,
            ..Optimizer::default()
        };
        let printed = |consumed| format!("{:.3E}", learning_rate(&bloom, consumed, 220_000_000));
        assert_eq!(printed(9_841_584), "5.969E-5");
        assert_eq!(printed(47_768_496), "5.279E-5");
        assert_eq!(printed(177_927_088), "7.610E-6");
        assert_eq!(printed(177_927_088 + 2048), "7.609E-6");
        assert_eq!(learning_rate(&bloom, 0, 1), 0.0);
        assert_eq!(learning_rate(&bloom, 183_105, 1), 6e-5);
        assert_eq!(learning_rate(&bloom, 200_000_001, 1), 6e-6);
    }

    #[test]
    fn without_warmup_it_begins_at_the_peak_and_ends_with_the_run() {
        let plain = Optimizer {
            learning_rate: 1.0,
            min_learning_rate: 0.0,
            ..Optimizer::default()
        };
        assert_eq!(learning_rate(&plain, 0, 100), 1.0);
        assert!((learning_rate(&plain, 50, 100) - 0.5).abs() < 1e-12);
        assert!(learning_rate(&plain, 100, 100).abs() < 1e-12);
    }
}
