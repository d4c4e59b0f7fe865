//! Initial weights: a pure function of the seed and the parameter's name, element by element, so that
//! every layout starts from the same model and no rank ever holds a whole parameter.

use super::shape::Parameter;
use rebloom_core::spec::Model;
use sha2::{Digest, Sha256};

/// The values of the part of `parameter` that member `index` of a tensor group of `size` holds.
pub fn values(model: &Model, seed: u64, parameter: &Parameter, index: u32, size: u32) -> Vec<f32> {
    let (rows, columns) = parameter.part(index, size);
    let count = usize::try_from((rows.end - rows.start) * (columns.end - columns.start));
    let count = count.unwrap_or_default();
    if parameter.shape.len() == 1 {
        let is_scale =
            parameter.name.ends_with("layernorm.weight") || parameter.name == "ln_f.weight";
        return vec![if is_scale { 1.0 } else { 0.0 }; count];
    }
    let deviation = deviation(model, &parameter.name);
    let stream = stream(seed, &parameter.name);
    let width = parameter.shape[1];
    let mut values = Vec::with_capacity(count);
    for row in rows {
        values.extend(columns.clone().map(|column| {
            let element = u64::try_from(row * width + column).unwrap_or_default();
            (normal(stream, element) * deviation) as f32
        }));
    }
    values
}

/// BLOOM's rule: 0.0048 at its width, which is the root of 1 / (3 h); less for what adds to the
/// residual stream, by the number of times it is added to.
fn deviation(model: &Model, name: &str) -> f64 {
    let base = (1.0 / (3.0 * f64::from(model.hidden))).sqrt();
    let adds = name.ends_with(".dense.weight") || name.ends_with(".dense_4h_to_h.weight");
    if adds {
        base / (2.0 * f64::from(model.layers)).sqrt()
    } else {
        base
    }
}

fn stream(seed: u64, name: &str) -> u64 {
    let digest = Sha256::new()
        .chain_update(seed.to_le_bytes())
        .chain_update(name)
        .finalize();
    let mut head = [0; 8];
    head.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(head)
}

/// A standard normal value from a counter (SplitMix64 and Box-Muller).
fn normal(stream: u64, element: u64) -> f64 {
    let uniform = |counter: u64| {
        let mut z = stream.wrapping_add(counter.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        // In (0, 1): the logarithm must not see 0.
        (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    };
    let (radius, angle) = (uniform(2 * element), uniform(2 * element + 1));
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

#[cfg(test)]
mod tests {
    use super::super::shape::Stage;
    use super::*;

    const SMALL: Model = Model {
        layers: 2,
        hidden: 64,
        heads: 4,
        vocab: 256,
        sequence: 8,
        residual_after_layernorm: false,
    };

    #[test]
    fn the_parts_of_a_group_are_slices_of_the_whole() {
        for parameter in Stage::of(&SMALL, 1, 0).parameters(&SMALL) {
            let whole = values(&SMALL, 7, &parameter, 0, 1);
            let width = parameter.shape.get(1).copied().unwrap_or(1);
            for index in 0..4 {
                let (rows, columns) = parameter.part(index, 4);
                let mine: Vec<f32> = rows
                    .flat_map(|row| columns.clone().map(move |column| row * width + column))
                    .map(|at| whole[usize::try_from(at).unwrap()])
                    .collect();
                assert_eq!(
                    values(&SMALL, 7, &parameter, index, 4),
                    mine,
                    "{}",
                    parameter.name
                );
            }
        }
    }

    #[test]
    fn values_are_normal_and_depend_on_seed_and_name() {
        let all = Stage::of(&SMALL, 1, 0).parameters(&SMALL);
        let find = |name: &str| all.iter().find(|p| p.name == name).unwrap();
        let qkv = find("h.0.self_attention.query_key_value.weight");
        let values_of = |seed, parameter| values(&SMALL, seed, parameter, 0, 1);
        let weights = values_of(1, qkv);
        let n = weights.len() as f64;
        let mean = weights.iter().map(|&w| f64::from(w)).sum::<f64>() / n;
        let deviation = (weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>() / n).sqrt();
        let wanted = (1.0 / (3.0 * 64.0_f64)).sqrt();
        assert!(mean.abs() < 4.0 * wanted / n.sqrt(), "{mean}");
        assert!((deviation / wanted - 1.0).abs() < 0.03, "{deviation}");
        assert_ne!(weights, values_of(2, qkv));
        assert_ne!(
            weights,
            values_of(1, find("h.1.self_attention.query_key_value.weight"))
        );
        assert_eq!(weights, values_of(1, qkv));
        assert!(values_of(1, find("ln_f.weight")).iter().all(|&w| w == 1.0));
        assert!(values_of(1, find("ln_f.bias")).iter().all(|&w| w == 0.0));
    }
}
