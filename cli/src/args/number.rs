//! Numbers on the command line: what is no number, or out of range, is told what would do.

/// Takes a whole number from `least` to `most`.
pub(crate) fn whole<T: TryFrom<u64>>(
    least: u64,
    most: u64,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse::<u64>().ok();
        let number = number.filter(|number| (least..=most).contains(number));
        number
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| match most {
                u64::MAX => format!("use a whole number, {least} or more"),
                _ => format!("use a whole number from {least} to {most}"),
            })
    }
}

/// Takes a number from 0 to `most`, and 0 itself where `zero` does.
pub(crate) fn real(
    zero: bool,
    most: f64,
) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse::<f64>().ok();
        let fits = |number: &f64| {
            number.is_finite() && *number <= most && (*number > 0.0 || zero && *number == 0.0)
        };
        number.filter(fits).ok_or_else(|| {
            let least = if zero { "0 or more" } else { "above 0" };
            if most == f64::MAX {
                format!("use a number, {least}")
            } else {
                format!("use a number, {least} and at most {most}")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_do_is_told_what_would() {
        let rank = whole::<u32>(0, 99);
        assert_eq!(rank("7"), Ok(7));
        for text in ["-1", "100", "abc", "", "1.5", "18446744073709551616"] {
            assert_eq!(rank(text).unwrap_err(), "use a whole number from 0 to 99");
        }
        let seed = whole::<u64>(0, u64::MAX);
        assert_eq!(seed("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(seed("x").unwrap_err(), "use a whole number, 0 or more");
    }

    #[test]
    fn a_share_is_above_0_and_at_most_1() {
        let share = real(false, 1.0);
        assert_eq!(share("0.9"), Ok(0.9));
        for text in ["0", "-1", "1.1", "nan", "inf", "much"] {
            assert_eq!(
                share(text).unwrap_err(),
                "use a number, above 0 and at most 1"
            );
        }
        assert_eq!(real(true, f64::MAX)("0"), Ok(0.0));
        assert_eq!(
            real(true, f64::MAX)("-1").unwrap_err(),
            "use a number, 0 or more"
        );
    }
}
