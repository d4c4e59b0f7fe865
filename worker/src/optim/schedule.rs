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
    use rebloom_core::spec::{Numerics, RampUp, Train};

    const SEQUENCE: u64 = 2048;

    /// `tr11-176B-ml.slurm`; its ramp-up began with `start` samples.
    fn bloom(start: u32) -> Train {
        Train {
            steps: 115_311,
            global_batch: 2048,
            micro_batch: 1,
            seed: 42,
            optimizer: Optimizer {
                learning_rate: 6e-5,
                min_learning_rate: 6e-6,
                warmup_samples: 183_105,
                decay_samples: 200_000_000,
                ..Optimizer::default()
            },
            ramp_up: Some(RampUp {
                start,
                increment: 16,
                samples: 9_765_625,
            }),
            numerics: Numerics::default(),
        }
    }

    /// As the log prints a rate: three digits, and an exponent of at least two.
    fn printed(rate: f64) -> String {
        let text = format!("{rate:.3E}");
        let (digits, exponent) = text.split_once('E').unwrap();
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        format!("{digits}E{sign}{exponent:0>2}")
    }

    /// What a log row says of a step that begins with `before` samples consumed: samples, tokens, rate and
    /// batch. It has the rate that the scheduler has after the step, which is the next step's.
    fn row(train: &Train, iteration: u64, before: u64) -> String {
        let batch = train.batch(before);
        let consumed = before + u64::from(batch);
        let rate = printed(learning_rate(&train.optimizer, consumed, 220_000_000));
        let tokens = consumed * SEQUENCE;
        format!("{iteration} {consumed} {tokens} {rate} {batch}")
    }

    fn row_of(train: &Train, iteration: u64) -> String {
        row(train, iteration, train.samples_after(iteration - 1))
    }

    #[test]
    fn rows_of_blooms_log_are_reproduced_to_the_last_printed_digit() {
        // bigscience-workshop/bigscience, train/tr11-176B-ml: chronicles.md, README.md, reshaping-log.md.
        for wanted in [
            "12695 9841584 20155564032 5.969E-05 2048",
            "31214 47768496 97829879808 5.279E-05 2048",
            "31221 47782832 97859239936 5.279E-05 2048",
            "31222 47784880 97863434240 5.278E-05 2048",
            "31250 47842224 97980874752 5.277E-05 2048",
            "31251 47844272 97985069056 5.277E-05 2048",
            "42780 71455664 146341199872 4.475E-05 2048",
            "42784 71463856 146357977088 4.475E-05 2048",
            "45000 76002224 155652554752 4.298E-05 2048",
            "85376 158692272 325001773056 1.150E-05 2048",
            "94768 177927088 364394676224 7.610E-06 2048",
            "94769 177929136 364398870528 7.609E-06 2048",
        ] {
            let iteration = wanted.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(row_of(&bloom(192), iteration), wanted);
        }
        // Its first days, before the ramp-up was made to begin with 192 samples.
        assert_eq!(
            row_of(&bloom(16), 3707),
            "3707 59312 121470976 1.944E-05 16"
        );
    }

    /// A run of the same code whose log was published from inside its ramp-up (train/tr8b-104B/chronicles.md);
    /// its rates were set by hand more than once, so samples, tokens and batch are compared.
    #[test]
    fn rows_from_inside_a_ramp_up_are_reproduced() {
        let mut train = bloom(16);
        train.ramp_up = Some(RampUp {
            start: 16,
            increment: 16,
            samples: 6_000_000,
        });
        for (iteration, samples, tokens, batch) in [
            (6_502, 216_960, 444_334_080_u64, 80),
            (6_503, 217_040, 444_497_920, 80),
            (8_600, 464_560, 951_418_880, 160),
            (12_000, 1_519_744, 3_112_435_712, 528),
            (12_001, 1_520_272, 3_113_517_056, 528),
            (14_000, 3_014_320, 6_173_327_360, 1024),
            (16_800, 7_594_208, 15_552_937_984, 2048),
            (17_060, 8_126_688, 16_643_457_024, 2048),
        ] {
            let got = row_of(&train, iteration);
            let wanted = format!("{iteration} {samples} {tokens} ");
            assert!(got.starts_with(&wanted), "{got} is not {wanted}");
            assert!(got.ends_with(&format!(" {batch}")), "{got}: {batch}");
        }
    }

    /// Every step of BLOOM's warm-up and ramp-up, by the rule as Megatron states it: on from the step before, in
    /// floating point.
    #[test]
    fn every_step_of_the_ramp_up_is_megatrons() {
        let train = bloom(192);
        let mut consumed = 0_u64;
        let mut last = f64::INFINITY;
        for iteration in 1..=12_800 {
            let increments = f64::from((2048_u32 - 192) / 16);
            let each = 9_765_625.0 / increments;
            let batch = if consumed > 9_765_625 {
                2048
            } else {
                192 + (consumed as f64 / each).floor() as u64 * 16
            };
            let before = consumed;
            consumed += batch;
            let of = consumed as f64;
            let rate = if consumed <= 183_105 {
                6e-5 * of / 183_105.0
            } else {
                let done = (of - 183_105.0) / (200e6 - 183_105.0);
                6e-6 + 0.5 * ((std::f64::consts::PI * done).cos() + 1.0) * (6e-5 - 6e-6)
            };
            let wanted = format!(
                "{iteration} {consumed} {} {} {batch}",
                consumed * SEQUENCE,
                printed(rate)
            );
            assert_eq!(row(&train, iteration, before), wanted);
            assert!(consumed < 183_105 + 2048 || rate < last, "it only falls");
            last = rate;
        }
        assert_eq!(consumed, train.samples_after(12_800));
    }

    #[test]
    fn the_ends_of_warmup_and_decay_are_exact() {
        let bloom = bloom(192).optimizer;
        assert_eq!(learning_rate(&bloom, 0, 1), 0.0);
        assert_eq!(learning_rate(&bloom, 183_105, 1), 6e-5);
        assert_eq!(learning_rate(&bloom, 200_000_001, 1), 6e-6);
        assert_eq!(printed(12.0), "1.200E+01");
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
