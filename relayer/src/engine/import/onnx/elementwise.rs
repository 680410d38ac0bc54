//! Operations on elements: functions, arithmetic, comparisons, choices.

use super::call::Call;
use super::graph::{Importer, Problem};
use super::item::{Array, Ints, Item, broadcast_dims};
use super::lin::Lin;
use super::tensor::Kind;
use candor_sdk::arithmetic::{functions, scalar};
use candor_sdk::program::{BinaryFunction, ProgramBuilder, UnaryFunction, Value};
use std::cmp::Ordering;

/// A function of one element, at import and in the graph.
type Function = (fn(f32) -> f32, UnaryFunction);

fn function(op: &str) -> Option<Function> {
    Some(match op {
        "Neg" => (scalar::neg, UnaryFunction::Neg),
        "Abs" => (scalar::abs, UnaryFunction::Abs),
        "Relu" => (|x| scalar::maximum(x, 0.0), UnaryFunction::Relu),
        "Sqrt" => (scalar::sqrt, UnaryFunction::Sqrt),
        "Exp" => (functions::exp, UnaryFunction::Exp),
        "Log" => (functions::log, UnaryFunction::Log),
        "Tanh" => (functions::tanh, UnaryFunction::Tanh),
        "Sigmoid" => (functions::sigmoid, UnaryFunction::Sigmoid),
        "Erf" => (functions::erf, UnaryFunction::Erf),
        _ => return None,
    })
}

/// A function of two elements.
type Pair = (fn(f32, f32) -> f32, BinaryFunction);

fn pair(op: &str) -> Option<Pair> {
    fn truth(condition: bool) -> f32 {
        f32::from(u8::from(condition))
    }
    Some(match op {
        "Add" | "Sum" => (scalar::add, BinaryFunction::Add),
        "Sub" => (scalar::sub, BinaryFunction::Sub),
        "Mul" | "And" => (scalar::mul, BinaryFunction::Mul),
        "Div" => (scalar::div, BinaryFunction::Div),
        "Max" | "Or" => (scalar::maximum, BinaryFunction::Maximum),
        "Min" => (scalar::minimum, BinaryFunction::Minimum),
        "Equal" => (|a, b| truth(a == b), BinaryFunction::Equal),
        "Less" => (|a, b| truth(a < b), BinaryFunction::Less),
        "LessOrEqual" => (|a, b| truth(a <= b), BinaryFunction::LessEqual),
        _ => return None,
    })
}

/// The same on integers that are known.
fn whole(op: &str, a: Lin, b: Lin) -> Option<Lin> {
    let order = || a.sub(b).and_then(Lin::sign);
    let truth = |condition: bool| Some(Lin::of(condition.into()));
    match op {
        "Add" | "Sum" => a.add(b),
        "Sub" => a.sub(b),
        "Mul" | "And" => a.mul(b),
        "Div" => match (a.known(), b.known()) {
            (Some(a), Some(b)) => a.checked_div(b).map(Lin::of),
            _ => a.exact_div(b),
        },
        "Mod" => a.known()?.checked_rem_euclid(b.known()?).filter(|_| b.known() > Some(0)).map(Lin::of),
        "Max" | "Or" => Some(if order()? == Ordering::Less { b } else { a }),
        "Min" => Some(if order()? == Ordering::Greater { b } else { a }),
        "Equal" => match order() {
            Some(order) => truth(order == Ordering::Equal),
            // Two lengths that are equal for some requests only.
            None => None,
        },
        "Less" => truth(order()? == Ordering::Less),
        "LessOrEqual" => truth(order()? != Ordering::Greater),
        "Greater" => truth(order()? == Ordering::Greater),
        "GreaterOrEqual" => truth(order()? != Ordering::Less),
        _ => None,
    }
}

const COMPARISONS: [&str; 5] = ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"];

/// Whether this module imports an operation.
pub(super) fn has(op: &str) -> bool {
    function(op).is_some()
        || pair(op).is_some()
        || matches!(
            op,
            "Greater"
                | "GreaterOrEqual"
                | "Mod"
                | "Pow"
                | "Where"
                | "Not"
                | "Clip"
                | "Cast"
                | "Gelu"
                | "Reciprocal"
                | "LeakyRelu"
                | "PRelu"
                | "HardSigmoid"
                | "HardSwish"
                | "Softsign"
                | "Elu"
                | "Mean"
                | "CastLike"
                | "Softplus"
                | "Selu"
                | "ThresholdedRelu"
                | "Sign"
        )
}

pub(super) fn import(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let op = call.op();
    if let Some((fold, function)) = function(op) {
        if let Item::Ints(ints) = call.input(0)? {
            return negated(op, ints).map(Item::Ints);
        }
        return importer.elementwise(
            &[call.input(0)?],
            Kind::Float,
            |x| fold(x[0]),
            |graph, x| graph.unary(function, x[0]),
        );
    }
    match op {
        "Greater" | "GreaterOrEqual" | "Mod" => {
            call.ignore("fmod");
            let (a, b) = (call.input(0)?, call.input(1)?);
            match op {
                "Greater" if !both_known(a, b) => binary(importer, "Less", b, a),
                "GreaterOrEqual" if !both_known(a, b) => binary(importer, "LessOrEqual", b, a),
                _ => binary(importer, op, a, b),
            }
        }
        "Mean" => {
            let inputs = call.inputs()?;
            let sum = chain(importer, "Sum", &inputs)?;
            let count = Item::Tensor(importer.constant(&[inputs.len() as f32], &[])?);
            binary(importer, "Div", &sum, &count)
        }
        _ if pair(op).is_some() => {
            call.ignore("broadcast"); // of version 6 and before, where it is the only way
            chain(importer, op, &call.inputs()?)
        }
        "Pow" => power(importer, call),
        "Where" => choose(importer, call.input(0)?, call.input(1)?, call.input(2)?),
        "Not" => {
            if let Item::Ints(ints) = call.input(0)? {
                let values = ints.values.iter().map(|value| whole("Equal", *value, Lin::of(0)));
                let values = values.collect::<Option<Vec<_>>>().ok_or("depends on the length of the request")?;
                return Ok(Item::Ints(Ints { values, ..ints.clone() }));
            }
            let not = |x: f32| f32::from(u8::from(x == 0.0));
            importer.elementwise(
                &[call.input(0)?],
                Kind::Bool,
                |x| not(x[0]),
                |graph, x| {
                    let zero = graph.constant(0.0);
                    graph.binary(BinaryFunction::Equal, x[0], zero)
                },
            )
        }
        "Clip" => clip(importer, call),
        "Cast" => {
            call.ignore("saturate"); // of types of 8 bits, which are refused
            let kind = match call.int("to")?.unwrap_or_default() {
                1 | 10 | 16 => Kind::Float,
                2 | 3 | 5 | 6 | 7 | 12 => Kind::Int,
                9 => Kind::Bool,
                other => {
                    let name = super::proto::type_name(u64::try_from(other).unwrap_or_default());
                    return Err(format!("to elements of type {name} is not understood"));
                }
            };
            cast(importer, call.input(0)?, kind)
        }
        "CastLike" => {
            call.ignore("saturate");
            cast(importer, call.input(0)?, call.input(1)?.kind())
        }
        "Softplus" => {
            // log(1 + exp(x)), written so that nothing overflows: max(x, 0) + log(1 + exp(-|x|)).
            let small = |x: f32| functions::log(scalar::add(1.0, functions::exp(scalar::neg(scalar::abs(x)))));
            let fold = move |x: &[f32]| scalar::add(scalar::maximum(x[0], 0.0), small(x[0]));
            importer.elementwise(&[call.input(0)?], Kind::Float, fold, |graph, x| {
                let one = graph.constant(1.0);
                let magnitude = graph.unary(UnaryFunction::Abs, x[0]);
                let negative = graph.unary(UnaryFunction::Neg, magnitude);
                let e = graph.unary(UnaryFunction::Exp, negative);
                let sum = graph.add(one, e);
                let small = graph.unary(UnaryFunction::Log, sum);
                let large = graph.relu(x[0]);
                graph.add(large, small)
            })
        }
        "Selu" => {
            let (alpha, gamma) = (call.float("alpha", 1.673_263_2)?, call.float("gamma", 1.050_701)?);
            let below = move |x: f32| scalar::mul(alpha, scalar::sub(functions::exp(x), 1.0));
            let fold = move |x: &[f32]| scalar::mul(gamma, if x[0] < 0.0 { below(x[0]) } else { x[0] });
            importer.elementwise(&[call.input(0)?], Kind::Float, fold, |graph, x| {
                let [zero, one, alpha, gamma] = [0.0, 1.0, alpha, gamma].map(|value| graph.constant(value));
                let e = graph.unary(UnaryFunction::Exp, x[0]);
                let e = graph.sub(e, one);
                let scaled = graph.mul(alpha, e);
                let negative = graph.binary(BinaryFunction::Less, x[0], zero);
                let chosen = graph.select(negative, scaled, x[0]);
                graph.mul(gamma, chosen)
            })
        }
        "ThresholdedRelu" => {
            let alpha = call.float("alpha", 1.0)?;
            let fold = move |x: &[f32]| if alpha < x[0] { x[0] } else { 0.0 };
            importer.elementwise(&[call.input(0)?], Kind::Float, fold, |graph, x| {
                let (zero, alpha) = (graph.constant(0.0), graph.constant(alpha));
                let above = graph.binary(BinaryFunction::Less, alpha, x[0]);
                graph.select(above, x[0], zero)
            })
        }
        "Sign" => {
            let truth = |condition: bool| f32::from(u8::from(condition));
            let fold = move |x: &[f32]| scalar::sub(truth(0.0 < x[0]), truth(x[0] < 0.0));
            importer.elementwise(&[call.input(0)?], Kind::Float, fold, |graph, x| {
                let zero = graph.constant(0.0);
                let above = graph.binary(BinaryFunction::Less, zero, x[0]);
                let below = graph.binary(BinaryFunction::Less, x[0], zero);
                graph.sub(above, below)
            })
        }
        "Gelu" => {
            let (fold, function): Function = match call.text("approximate")? {
                None | Some("none") => (functions::gelu_erf, UnaryFunction::GeluErf),
                Some("tanh") => (functions::gelu_tanh, UnaryFunction::GeluTanh),
                Some(other) => return Err(format!("attribute approximate is {other:?}, neither none nor tanh")),
            };
            importer.elementwise(&[call.input(0)?], Kind::Float, |x| fold(x[0]), |graph, x| graph.unary(function, x[0]))
        }
        "Reciprocal" => importer.elementwise(
            &[call.input(0)?],
            Kind::Float,
            |x| scalar::div(1.0, x[0]),
            |graph, x| {
                let one = graph.constant(1.0);
                graph.div(one, x[0])
            },
        ),
        "Softsign" => {
            let fold = |x: &[f32]| scalar::div(x[0], scalar::add(1.0, scalar::abs(x[0])));
            importer.elementwise(&[call.input(0)?], Kind::Float, fold, |graph, x| {
                let (one, magnitude) = (graph.constant(1.0), graph.unary(UnaryFunction::Abs, x[0]));
                let sum = graph.add(one, magnitude);
                graph.div(x[0], sum)
            })
        }
        "LeakyRelu" => {
            let slope = Item::Tensor(importer.constant(&[call.float("alpha", 0.01)?], &[])?);
            leaky(importer, call.input(0)?, &slope)
        }
        "PRelu" => leaky(importer, call.input(0)?, call.input(1)?),
        "Elu" => {
            let alpha = call.float("alpha", 1.0)?;
            let below = move |x: f32| scalar::mul(alpha, scalar::sub(functions::exp(x), 1.0));
            let fold = move |x: &[f32]| if x[0] < 0.0 { below(x[0]) } else { x[0] };
            importer.elementwise(&[call.input(0)?], Kind::Float, fold, |graph, x| {
                let (zero, one, alpha) = (graph.constant(0.0), graph.constant(1.0), graph.constant(alpha));
                let e = graph.unary(UnaryFunction::Exp, x[0]);
                let e = graph.sub(e, one);
                let scaled = graph.mul(alpha, e);
                let negative = graph.binary(BinaryFunction::Less, x[0], zero);
                graph.select(negative, scaled, x[0])
            })
        }
        "HardSigmoid" | "HardSwish" => {
            let swish = op == "HardSwish";
            let (alpha, beta) =
                if swish { (1.0 / 6.0, 0.5) } else { (call.float("alpha", 0.2)?, call.float("beta", 0.5)?) };
            let gate =
                move |x: f32| scalar::maximum(scalar::minimum(scalar::add(scalar::mul(x, alpha), beta), 1.0), 0.0);
            let fold = move |x: &[f32]| if swish { scalar::mul(x[0], gate(x[0])) } else { gate(x[0]) };
            importer.elementwise(&[call.input(0)?], Kind::Float, fold, |graph, x| {
                let [alpha, beta, zero, one] = [alpha, beta, 0.0, 1.0].map(|value| graph.constant(value));
                let scaled = graph.mul(x[0], alpha);
                let shifted = graph.add(scaled, beta);
                let low = graph.binary(BinaryFunction::Minimum, shifted, one);
                let gate = graph.binary(BinaryFunction::Maximum, low, zero);
                if swish { graph.mul(x[0], gate) } else { gate }
            })
        }
        _ => Err("is not understood".to_string()),
    }
}

fn both_known(a: &Item, b: &Item) -> bool {
    matches!((a, b), (Item::Ints(_), Item::Ints(_)))
}

/// An operation of any number of inputs, two at a time.
fn chain(importer: &mut Importer, op: &str, inputs: &[&Item]) -> Result<Item, Problem> {
    let (first, rest) = inputs.split_first().ok_or("has no input")?;
    rest.iter().try_fold((*first).clone(), |left, right| binary(importer, op, &left, right))
}

/// An operation of two inputs.
pub(super) fn binary(importer: &mut Importer, op: &str, a: &Item, b: &Item) -> Result<Item, Problem> {
    let compares = COMPARISONS.contains(&op);
    if let (Item::Ints(a), Item::Ints(b)) = (a, b) {
        return ints(op, a, b).map(Item::Ints);
    }
    let Some((fold, function)) = pair(op) else {
        return Err("takes integers that are known at import only".to_string());
    };
    let kind = if compares || matches!(op, "And" | "Or") { Kind::Bool } else { a.kind() };
    // Sums of integers may leave the range that f32 has exactly; comparisons and choices do not.
    let computed = |item: &Item| matches!(item, Item::Tensor(_)) && item.kind() == Kind::Int;
    if kind == Kind::Int && !matches!(op, "Max" | "Min") && (computed(a) || computed(b)) {
        return Err("arithmetic on integers that depend on the request is not understood".to_string());
    }
    importer.elementwise(&[a, b], kind, |x| fold(x[0], x[1]), |graph, x| graph.binary(function, x[0], x[1]))
}

fn ints(op: &str, a: &Ints, b: &Ints) -> Result<Ints, Problem> {
    let shape = |ints: &Ints| ints.dims.iter().map(|&dim| Lin::of(dim as i64)).collect::<Vec<_>>();
    let dims = broadcast_dims(&[shape(a), shape(b)]).and_then(|dims| dims.iter().map(|d| d.size()).collect());
    let dims: Vec<usize> = dims.ok_or_else(|| format!("shapes {:?} and {:?} do not broadcast", a.dims, b.dims))?;
    let array = |ints: &Ints| Array { dims: ints.dims.clone(), values: ints.values.clone() }.broadcast(&dims);
    let (Some(x), Some(y)) = (array(a), array(b)) else { return Err(format!("{dims:?} integers are too many")) };
    let values = x.values.iter().zip(&y.values).map(|(&a, &b)| {
        whole(op, a, b).ok_or_else(|| format!("of {a} and {b} is not a whole number for every length of the request"))
    });
    let kind = if COMPARISONS.contains(&op) { Kind::Bool } else { a.kind };
    Ok(Ints { dims, values: values.collect::<Result<_, _>>()?, kind })
}

fn negated(op: &str, ints: &Ints) -> Result<Ints, Problem> {
    let value = |value: &Lin| match op {
        "Neg" => Lin::of(0).sub(*value),
        "Abs" => value.known().and_then(i64::checked_abs).map(Lin::of),
        _ => None,
    };
    let values = ints.values.iter().map(value).collect::<Option<Vec<_>>>().ok_or("of integers is not understood")?;
    Ok(Ints { values, ..ints.clone() })
}

fn power(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let exponent = match call.input(1)? {
        Item::Tensor(tensor) => tensor.uniform(),
        Item::Ints(ints) => match ints.known().as_deref() {
            Some([n]) => Some(*n as f32),
            _ => None,
        },
        Item::Uniform { value, .. } => Some(*value),
        Item::Range { .. } => None,
    };
    let Some(exponent) = exponent else { return Err("the exponent is not one number known at import".to_string()) };
    type Power = (fn(f32) -> f32, fn(&mut ProgramBuilder, Value) -> Value);
    let (fold, build): Power = match exponent {
        1.0 => (|x| x, |_, x| x),
        2.0 => (|x| scalar::mul(x, x), |graph, x| graph.mul(x, x)),
        3.0 => (
            |x| scalar::mul(scalar::mul(x, x), x),
            |graph, x| {
                let square = graph.mul(x, x);
                graph.mul(square, x)
            },
        ),
        0.5 => (scalar::sqrt, |graph, x| graph.unary(UnaryFunction::Sqrt, x)),
        -0.5 => (functions::rsqrt, |graph, x| graph.unary(UnaryFunction::Rsqrt, x)),
        -1.0 => (
            |x| scalar::div(1.0, x),
            |graph, x| {
                let one = graph.constant(1.0);
                graph.div(one, x)
            },
        ),
        other => return Err(format!("exponent {other}; -1, -0.5, 0.5, 1, 2 and 3 are understood")),
    };
    importer.elementwise(&[call.input(0)?], Kind::Float, |x| fold(x[0]), |graph, x| build(graph, x[0]))
}

/// `condition ? x : y`.
fn choose(importer: &mut Importer, condition: &Item, x: &Item, y: &Item) -> Result<Item, Problem> {
    if let (Item::Ints(mask), Item::Ints(a), Item::Ints(b)) = (condition, x, y) {
        // Through arithmetic: mask * a + (1 - mask) * b, on integers that are known exactly.
        let one = Ints::scalar(Lin::ONE);
        let other = ints("Sub", &one, mask)?;
        return ints("Add", &ints("Mul", mask, a)?, &ints("Mul", &other, b)?)
            .map(|result| Item::Ints(Ints { kind: a.kind, ..result }));
    }
    let fold = |x: &[f32]| if x[0] != 0.0 { x[1] } else { x[2] };
    importer.elementwise(&[condition, x, y], x.kind(), fold, |graph, x| graph.select(x[0], x[1], x[2]))
}

fn leaky(importer: &mut Importer, x: &Item, slope: &Item) -> Result<Item, Problem> {
    let fold = |x: &[f32]| if x[0] < 0.0 { scalar::mul(x[1], x[0]) } else { x[0] };
    importer.elementwise(&[x, slope], Kind::Float, fold, |graph, x| {
        let zero = graph.constant(0.0);
        let scaled = graph.mul(x[1], x[0]);
        let negative = graph.binary(BinaryFunction::Less, x[0], zero);
        graph.select(negative, scaled, x[0])
    })
}

fn clip(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let mut result = call.input(0)?.clone();
    for (op, index, name) in [("Max", 1, "min"), ("Min", 2, "max")] {
        let attribute = call.plain(name).is_some().then(|| call.float(name, 0.0)).transpose()?;
        let bound = match (call.optional(index), attribute) {
            (Some(bound), _) => bound.clone(),
            (None, Some(bound)) => Item::Tensor(importer.constant(&[bound], &[])?),
            (None, None) => continue,
        };
        result = binary(importer, op, &result, &bound)?;
    }
    Ok(result)
}

/// From one type of elements to another.
fn cast(importer: &mut Importer, input: &Item, kind: Kind) -> Result<Item, Problem> {
    Ok(match (input, input.kind(), kind) {
        (Item::Ints(ints), _, Kind::Int) => Item::Ints(Ints { kind, ..ints.clone() }),
        (Item::Uniform { value, dims, .. }, from, to) if from == to || to == Kind::Float || from == Kind::Bool => {
            importer.everywhere(*value, dims.clone(), kind)?
        }
        (Item::Ints(_), _, Kind::Float) => importer.elementwise(&[input], kind, |x| x[0], |_, x| x[0])?,
        (_, from, to) if from == to => input.clone(),
        // Truth values are 0 and 1 already, integers become floats where floats are needed.
        (Item::Tensor(tensor), Kind::Int | Kind::Bool, Kind::Float) | (Item::Tensor(tensor), Kind::Bool, Kind::Int) => {
            Item::Tensor(super::tensor::Tensor { kind, ..tensor.clone() })
        }
        (_, _, Kind::Bool) => {
            let fold = |x: &[f32]| f32::from(u8::from(x[0] != 0.0));
            importer.elementwise(&[input], kind, fold, |graph, x| {
                let (zero, one) = (graph.constant(0.0), graph.constant(1.0));
                graph.select(x[0], one, zero)
            })?
        }
        _ => return Err("floats that depend on the request do not become integers".to_string()),
    })
}
