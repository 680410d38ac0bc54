//! Operations of `ai.onnx.ml`, as exporters of scikit-learn write them: scalers, linear models, norms of rows. Of a classifier the scores are imported; its
//! label is the place of the largest, and what that is called belongs into the description.

use super::call::Call;
use super::graph::{Importer, Problem, TOO_LARGE};
use super::item::Item;
use super::lin::Lin;
use super::tensor::{Kind, Tensor};
use super::{elementwise, rows};
use candor_sdk::program::UnaryFunction;

/// The domain of these operations.
pub(super) const DOMAIN: &str = "ai.onnx.ml";

/// What a node's outputs stand for; none for one that is not imported.
pub(super) fn import(importer: &mut Importer, call: &Call<'_>) -> Result<Vec<Option<Item>>, Problem> {
    Ok(match call.op() {
        "Scaler" => vec![Some(scaler(importer, call)?)],
        "LinearRegressor" => {
            let targets = call.int("targets")?.unwrap_or(1);
            vec![Some(linear(importer, call, targets)?)]
        }
        "LinearClassifier" => {
            // What the classes are called, and how the scores were trained.
            for name in ["classlabels_ints", "classlabels_strings", "multi_class"] {
                call.ignore(name);
            }
            let classes = call.floats("intercepts")?.map_or(0, <[f32]>::len);
            if classes < 2 {
                return Err(format!("{classes} scores; a classifier has one for each class"));
            }
            vec![None, Some(linear(importer, call, classes as i64)?)]
        }
        "Normalizer" => {
            let rank = call.input(0)?.shape().len();
            let name = match call.text("norm")? {
                Some("L1") => "L1",
                Some("L2") => "L2",
                other => return Err(format!("attribute norm is {:?}, neither L1 nor L2", other.unwrap_or("MAX"))),
            };
            vec![Some(rows::normalised(importer, call.input(0)?, call.axis(-1, rank)?, name)?)]
        }
        _ => return Err("this operation is not understood".to_string()),
    })
}

/// `(x - offset) * scale`.
fn scaler(importer: &mut Importer, call: &Call<'_>) -> Result<Item, Problem> {
    let mut x = call.input(0)?.clone();
    if x.kind() != Kind::Float {
        return Err(format!("of {}, not of floats", x.describe()));
    }
    for (name, op) in [("offset", "Sub"), ("scale", "Mul")] {
        if let Some(values) = call.floats(name)? {
            let row = Item::Tensor(importer.constant(values, &[Lin::of(values.len() as i64)])?);
            x = elementwise::binary(importer, op, &x, &row)?;
        }
    }
    Ok(x)
}

/// `x * coefficients^T + intercepts`, of so many columns, and what follows.
fn linear(importer: &mut Importer, call: &Call<'_>, columns: i64) -> Result<Item, Problem> {
    let x = importer.tensor(call.input(0)?)?;
    let coefficients = call.floats("coefficients")?.ok_or("has no coefficients")?;
    let (n, features) = (Lin::of(columns), x.shape().last().copied().unwrap_or(Lin::ONE));
    let wanted = n.mul(features).and_then(Lin::known);
    if x.rank() != 2 || columns < 1 || wanted != i64::try_from(coefficients.len()).ok() {
        return Err(format!("{} coefficients for {columns} columns of {}", coefficients.len(), x.describe()));
    }
    let w = importer.constant(coefficients, &[n, features])?;
    let w = importer.arrange(&w, &w.dims[0], &w.dims[1])?;
    let values = importer.flat_floats(&x, 1)?;
    let value = importer.graph.linear(values, w, None);
    let mut scores = Item::Tensor(Tensor::of(value, Kind::Float, &x.shape()[..1], &[n]).ok_or(TOO_LARGE)?);
    if let Some(intercepts) = call.floats("intercepts")? {
        if intercepts.len() as i64 != columns {
            return Err(format!("{} intercepts for {columns} columns", intercepts.len()));
        }
        let row = Item::Tensor(importer.constant(intercepts, &[n])?);
        scores = elementwise::binary(importer, "Add", &scores, &row)?;
    }
    match call.text("post_transform")? {
        None | Some("NONE") => Ok(scores),
        Some("SOFTMAX") => {
            let scores = importer.tensor(&scores)?;
            let value = importer.flat_floats(&scores, 1)?;
            let value = importer.graph.softmax(value);
            Ok(Item::Tensor(Tensor::of(value, Kind::Float, &x.shape()[..1], &[n]).ok_or(TOO_LARGE)?))
        }
        Some("LOGISTIC") => importer.elementwise(
            &[&scores],
            Kind::Float,
            |x| candor_sdk::arithmetic::functions::sigmoid(x[0]),
            |graph, x| graph.unary(UnaryFunction::Sigmoid, x[0]),
        ),
        Some(other) => Err(format!("attribute post_transform is {other}, which is not understood")),
    }
}
