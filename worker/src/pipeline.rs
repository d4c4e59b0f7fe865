//! One forward, one backward: the order in which a stage works on its micro-batches.
//!
//! A pure function of the shape of the pipeline, so what each stage waits for is known beforehand.

/// What a stage does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Forward pass of a micro-batch.
    Forward(u32),
    /// Backward pass of a micro-batch.
    Backward(u32),
}

/// The actions of `stage` of `stages` on `micro_batches`: as many forward passes as there are stages
/// behind it, then one of each in turn, then what is left.
pub fn order(stage: u32, stages: u32, micro_batches: u32) -> Vec<Action> {
    let ahead = (stages - stage - 1).min(micro_batches);
    let warm_up = (0..ahead).map(Action::Forward);
    let steady = (ahead..micro_batches)
        .flat_map(|micro| [Action::Forward(micro), Action::Backward(micro - ahead)]);
    let cool_down = (micro_batches - ahead..micro_batches).map(Action::Backward);
    warm_up.chain(steady).chain(cool_down).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(stage: u32, stages: u32, micro_batches: u32) -> String {
        let name = |action: &Action| match action {
            Action::Forward(micro) => format!("F{micro}"),
            Action::Backward(micro) => format!("B{micro}"),
        };
        order(stage, stages, micro_batches)
            .iter()
            .map(name)
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn the_order_is_megatrons() {
        assert_eq!(print(0, 4, 6), "F0 F1 F2 F3 B0 F4 B1 F5 B2 B3 B4 B5");
        assert_eq!(print(1, 4, 6), "F0 F1 F2 B0 F3 B1 F4 B2 F5 B3 B4 B5");
        assert_eq!(print(2, 4, 6), "F0 F1 B0 F2 B1 F3 B2 F4 B3 F5 B4 B5");
        assert_eq!(print(3, 4, 6), "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 F5 B5");
        assert_eq!(print(0, 4, 2), "F0 F1 B0 B1");
        assert_eq!(print(0, 1, 2), "F0 B0 F1 B1");
    }

    /// DeepSpeed's `TrainSchedule`: what a stage does in each step of the whole pipeline, by the parity of
    /// step and stage.
    fn deepspeed(stage: u32, stages: u32, micro_batches: u32) -> Vec<Action> {
        let (stage, stages) = (i64::from(stage), i64::from(stages));
        let steps = 0..2 * (i64::from(micro_batches) + stages - 1);
        let actions = steps.filter_map(|step| {
            let forward = step % 2 == stage % 2;
            let micro = match (step % 2 == 0, forward) {
                (true, true) => step / 2 - stage / 2,
                (false, true) => (step - 1) / 2 - stage / 2,
                (true, false) => step / 2 - stages + (stage + 1) / 2,
                (false, false) => (step - 1) / 2 - stages + 1 + stage / 2,
            };
            let micro = u32::try_from(micro).ok().filter(|m| *m < micro_batches)?;
            Some(if forward {
                Action::Forward(micro)
            } else {
                Action::Backward(micro)
            })
        });
        actions.collect()
    }

    #[test]
    fn the_order_is_deepspeeds() {
        for stages in 1..=12 {
            for micro_batches in 1..=19 {
                for stage in 0..stages {
                    assert_eq!(
                        order(stage, stages, micro_batches),
                        deepspeed(stage, stages, micro_batches),
                        "stage {stage} of {stages}, {micro_batches} micro-batches"
                    );
                }
            }
        }
    }

    /// Runs every stage of a pipeline in which each receiver asks for one message ahead and a send
    /// waits for the one before it, and says whether all come to the end.
    fn ends(stages: u32, micro_batches: u32) -> bool {
        let orders: Vec<_> = (0..stages)
            .map(|s| order(s, stages, micro_batches))
            .collect();
        let mut at = vec![0; orders.len()];
        let mut done = vec![Vec::new(); orders.len()];
        loop {
            let mut moved = false;
            for stage in 0..orders.len() {
                let Some(action) = orders[stage].get(at[stage]).copied() else {
                    continue;
                };
                let has = |stage: usize, action| done[stage].contains(&action);
                let ready = match action {
                    Action::Forward(micro) => {
                        (stage == 0 || has(stage - 1, action))
                            && (stage + 1 == orders.len()
                                || micro < 2
                                || has(stage + 1, Action::Forward(micro - 2)))
                    }
                    Action::Backward(micro) => {
                        has(stage, Action::Forward(micro))
                            && (stage + 1 == orders.len() || has(stage + 1, action))
                            && (stage == 0
                                || micro < 2
                                || has(stage - 1, Action::Backward(micro - 2)))
                    }
                };
                if ready {
                    done[stage].push(action);
                    at[stage] += 1;
                    moved = true;
                }
            }
            if !moved {
                return orders.iter().zip(&at).all(|(order, &at)| order.len() == at);
            }
        }
    }

    #[test]
    fn no_pipeline_waits_for_itself() {
        for stages in 1..=12 {
            for micro_batches in 1..=19 {
                assert!(ends(stages, micro_batches), "{stages} {micro_batches}");
            }
        }
    }

    #[test]
    fn a_stage_holds_no_more_in_flight_than_stages_behind_it_and_one() {
        for stage in 0..12 {
            let mut in_flight = 0_u32;
            for action in order(stage, 12, 40) {
                match action {
                    Action::Forward(_) => in_flight += 1,
                    Action::Backward(_) => in_flight -= 1,
                }
                assert!(in_flight <= 12 - stage);
            }
            assert_eq!(in_flight, 0);
        }
    }
}
