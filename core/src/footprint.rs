//! Energy and CO2 of device time: power by the name of the device, intensity by region.
//!
//! The method is that of BLOOM's own account (Luccioni et al. 2022, arXiv:2211.02001): hours of devices
//! times their rated power times the carbon intensity of the grid. It counts what the devices draw, not
//! what the idle cluster around them or their making costs (BLOOM: 24.7 of 50.5 tonnes), unless a power
//! usage effectiveness says so. Where the power of a device is not known, no figure is made up.

use crate::time::Duration;
use serde::{Deserialize, Serialize};

/// Grams of CO2 equivalents per kilowatt-hour, by region. All but one are the means of 2023 by Ember and
/// the Energy Institute, as Our World in Data gives them; `jean-zay` is what BLOOM's account used.
pub const REGIONS: [(&str, f64); 16] = [
    ("at", 111.0),
    ("au", 549.0),
    ("be", 138.0),
    ("br", 98.0),
    ("ca", 170.0),
    ("cn", 582.0),
    ("de", 381.0),
    ("dk", 152.0),
    ("fi", 79.0),
    ("fr", 56.0),
    ("ie", 291.0),
    ("in", 713.0),
    ("jean-zay", 57.0),
    ("no", 30.0),
    ("us", 369.0),
    ("world", 481.0),
];

/// Rated watts of a device, by a part of the name that its driver gives it (data sheets of its maker,
/// the SXM form where there are several). The first that fits counts.
pub const WATTS: [(&str, f64); 8] = [
    ("B200", 1000.0),
    ("H200", 700.0),
    ("H100", 700.0),
    ("H800", 700.0),
    ("A100", 400.0),
    ("A800", 400.0),
    ("L40S", 350.0),
    ("V100", 300.0),
];

/// What a region's electricity emits; none where the region is not known.
pub fn intensity(region: &str) -> Option<f64> {
    REGIONS
        .iter()
        .find(|(name, _)| *name == region)
        .map(|(_, grams)| *grams)
}

/// What a device of this name is rated at; none where it is not known.
pub fn watts(device: &str) -> Option<f64> {
    WATTS
        .iter()
        .find(|(part, _)| device.contains(part))
        .map(|(_, watts)| *watts)
}

/// What an hour of a device costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tariff {
    /// Watts of one device; none where that is not known.
    pub watts: Option<f64>,
    /// Power usage effectiveness of the site: all its power by that of its machines.
    pub effectiveness: f64,
    /// Grams of CO2 equivalents per kilowatt-hour.
    pub grams_per_kwh: f64,
}

impl Default for Tariff {
    /// Devices alone, on the mean grid of the world.
    fn default() -> Self {
        Self {
            watts: None,
            effectiveness: 1.0,
            grams_per_kwh: 481.0,
        }
    }
}

/// What a span of device time cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Footprint {
    /// Kilowatt-hours.
    pub kilowatt_hours: f64,
    /// Kilograms of CO2 equivalents.
    pub kilograms: f64,
}

impl Tariff {
    /// What so much time of devices cost; none where their power is not known.
    pub fn of(&self, device_time: Duration) -> Option<Footprint> {
        let hours = device_time.as_secs_f64() / 3600.0;
        let kilowatt_hours = hours * self.watts? / 1000.0 * self.effectiveness;
        Some(Footprint {
            kilowatt_hours,
            kilograms: kilowatt_hours * self.grams_per_kwh / 1000.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blooms_own_account_comes_out() {
        // 1,082,990 GPU-hours of A100s: 433,196 kWh and 24.7 tonnes (Luccioni et al. 2022, section 4).
        let tariff = Tariff {
            watts: watts("NVIDIA A100-SXM4-80GB"),
            effectiveness: 1.0,
            grams_per_kwh: intensity("jean-zay").unwrap(),
        };
        let cost = tariff.of(Duration::from_secs(1_082_990 * 3600)).unwrap();
        assert!((cost.kilowatt_hours - 433_196.0).abs() < 1.0, "{cost:?}");
        assert!((cost.kilograms - 24_692.0).abs() < 1.0, "{cost:?}");
    }

    #[test]
    fn no_figure_is_made_up() {
        assert_eq!(watts("llvmpipe"), None);
        assert_eq!(intensity("atlantis"), None);
        assert_eq!(Tariff::default().of(Duration::from_secs(3600)), None);
    }
}
