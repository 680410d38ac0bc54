//! Steps: an element depends on nothing but what its step lists, and no part of a step opens more than a few leaves.

use std::sync::Arc;

use candor_sdk::program::{
    DType, Interpreter, LEAF, MAX_PART_LEAVES, Model, Op, Operand, Read, Request, Step, Tensor, TensorData,
    WeightTensor, WeightType,
};

use crate::models::{self, Numbers};

/// Every read of a step.
fn reads(step: &Step) -> Vec<Read> {
    step.parts.iter().flatten().chain(&step.reads).cloned().collect()
}

/// A tensor with all elements replaced but those that are read.
fn scramble(tensor: &Tensor, n: &mut Numbers, keep: impl Fn(usize, usize) -> bool) -> Tensor {
    let positions = (0..tensor.rows()).flat_map(|r| (0..tensor.cols()).map(move |c| (r, c)));
    let bits: Vec<u32> = positions
        .map(|(r, c)| match keep(r, c) {
            true => tensor.bits(r, c),
            false => match tensor.dtype() {
                DType::F32 => n.float().to_bits(),
                // Small enough for every table.
                DType::U32 => (n.next() % 2) as u32,
                DType::U8 | DType::I8 => (n.next() % 128) as u32,
            },
        })
        .collect();
    let data = match tensor.dtype() {
        DType::F32 => TensorData::F32(bits.into_iter().map(f32::from_bits).collect()),
        DType::U32 => TensorData::U32(bits),
        DType::U8 => TensorData::U8(bits.into_iter().map(|b| b as u8).collect()),
        DType::I8 => TensorData::I8(bits.into_iter().map(|b| b as i8).collect()),
    };
    Tensor::new(tensor.rows(), tensor.cols(), data)
}

/// The weights with all f32 elements replaced but those that are read.
fn scramble_weights(model: &Model, n: &mut Numbers, keep: impl Fn(u32, usize, usize) -> bool) -> Model {
    let scrambled = model.weights.tensors().iter().enumerate().map(|(index, tensor)| {
        if tensor.dtype() != WeightType::F32 {
            return tensor.clone();
        }
        let positions = (0..tensor.rows()).flat_map(|r| (0..tensor.cols()).map(move |c| (r, c)));
        let bits = positions.map(|(r, c)| match keep(index as u32, r, c) {
            true => tensor.bits(r, c),
            false => n.float().to_bits(),
        });
        let bytes: Vec<u8> = bits.flat_map(u32::to_le_bytes).collect();
        let shape = (tensor.rows() as u32, tensor.cols() as u32);
        WeightTensor::new(tensor.name(), shape, WeightType::F32, Arc::new(bytes)).expect("the same shape")
    });
    Model { weights: scrambled.collect(), ..model.clone() }
}

/// Checks the steps of some elements of each node of a run; returns the names of the operations it saw.
fn check(name: &str, model: &Model, request: &Request, n: &mut Numbers) -> Vec<&'static str> {
    let run = model.interpret(request).expect(name);
    let bound = model.bind(run.symbols).expect("bound before");
    for (index, node) in model.program.nodes.iter().enumerate() {
        let tensor = &run.tensors[index];
        let step = |r, c| model.step(&bound, &run.tensors, index as u32, r, c);
        assert_eq!(step(tensor.rows(), 0), None, "beyond the last row");
        assert_eq!(step(0, tensor.cols()), None, "beyond the last column");
        let elements = tensor.rows() * tensor.cols();
        for _ in 0..elements.min(6) {
            let at = n.next() as usize % elements;
            let (r, c) = (at / tensor.cols(), at % tensor.cols());
            let place = format!("{name} node {index} {} [{r}, {c}]", node.op.name());
            let step = step(r, c).expect(&place);
            for part in step.parts.iter().chain([&step.reads]) {
                let leaves: usize = part.iter().map(Read::leaves).sum();
                assert!(leaves <= MAX_PART_LEAVES, "{place}: {leaves} leaves");
            }
            // Only earlier elements: nodes before this one, or a row before it in the same node.
            let all = reads(&step);
            for read in &all {
                if let Read::Elements { operand: Operand::Node(read), row, .. } = read {
                    assert!((*read as usize) < index || (*read as usize == index && *row < r), "{place}");
                }
            }
            // A running sum and a position in the text are found by adding up what is earlier, which was checked.
            if matches!(node.op, Op::PrefixSum | Op::Detokenise) {
                continue;
            }
            let kept = |wanted: Operand, r: usize, c: usize| {
                all.iter().any(|read| match read {
                    Read::Elements { operand, row, cols } => *operand == wanted && *row == r && cols.contains(&c),
                    _ => false,
                })
            };
            let tensors: Vec<Tensor> = (run.tensors[..index].iter().enumerate())
                .map(|(source, tensor)| scramble(tensor, n, |r, c| kept(Operand::Node(source as u32), r, c)))
                .collect();
            let scrambled = scramble_weights(model, n, |weight, r, c| kept(Operand::Weight(weight), r, c));
            if index > 0 {
                let again = Interpreter::new(&scrambled).recompute(request, run.symbols, &tensors, index as u32);
                assert_eq!(again.expect(&place).bits(r, c), tensor.bits(r, c), "{place}");
            }
        }
    }
    model.program.nodes.iter().map(|node| node.op.name()).collect()
}

#[test]
fn elements_depend_on_what_their_step_lists() {
    let mut n = Numbers::new(99);
    let mut seen: Vec<&str> = Vec::new();
    for (name, model, request) in models::all() {
        for _ in 0..2 {
            seen.extend(check(name, &model, &request, &mut n));
        }
    }
    // Long enough for several blocks in the attention mix.
    let prompt: Vec<u32> = (0..130).map(|i| i % models::VOCABULARY).collect();
    seen.extend(check("long", &models::causal(), &models::ask_tokens(&prompt, 2), &mut n));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 28, "every operation is in one of the models: {seen:?}");
}

#[test]
fn steps_by_hand() {
    let model = models::quantised();
    let request = models::ask(b"abc".to_vec());
    let run = model.interpret(&request).expect("an answer");
    let bound = model.bind(run.symbols).expect("bound before");
    let linear = models::find(&model, |op| *op == Op::QuantLinear) as u32;
    let elements = |operand, row, cols| Read::Elements { operand, row, cols };
    // 160 columns of q8_0: a block of 128 with four scales and one of 32 with one.
    let step = model.step(&bound, &run.tensors, linear, 2, 5).expect("an element");
    let (q, amax, w) = (Operand::Node(linear - 1), Operand::Node(linear - 2), Operand::Weight(1));
    let parts = vec![
        vec![elements(q, 2, 0..128), elements(w, 5, 0..128), elements(amax, 2, 0..4)],
        vec![elements(q, 2, 128..160), elements(w, 5, 128..160), elements(amax, 2, 4..5)],
    ];
    assert_eq!(step, Step { parts, reads: vec![elements(Operand::Weight(2), 0, 5..6)] });

    // A lookup reads the row that the token says.
    let gather = models::find(&model, |op| *op == Op::Gather) as u32;
    let step = model.step(&bound, &run.tensors, gather, 1, 130).expect("an element");
    let expected = vec![elements(Operand::Node(0), 1, 0..1), elements(Operand::Weight(0), b'b'.into(), 130..131)];
    assert_eq!(step, Step { parts: vec![], reads: expected });
    assert_eq!(elements(q, 0, 127..129).leaves(), 2);
    assert_eq!(elements(q, 0, 0..LEAF).leaves(), 1);
}
