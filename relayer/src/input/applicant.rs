//! A loan application in words, `purpose=new_car,amount_dm=5000`, made into the numbers that the credit model reads.
//!
//! What is not said is taken to be typical, and reported as such. The words and their codes are in the model's `schema.json`.
use crate::config::nearest;
use serde::Deserialize;
use std::fmt;

/// The attributes of an application, in the order in which the model reads them.
#[derive(Clone, Debug, Deserialize)]
pub struct Schema {
    attributes: Vec<Attribute>,
}

#[derive(Clone, Debug, Deserialize)]
struct Attribute {
    column: usize,
    key: String,
    description: String,
    typical: f32,
    #[serde(flatten)]
    kind: Kind,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Kind {
    Categorical { codes: Vec<Code> },
    Numeric { unit: String, minimum: f32, maximum: f32 },
}

#[derive(Clone, Debug, Deserialize)]
struct Code {
    code: u32,
    key: String,
    meaning: String,
}

/// An application, complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Applicant {
    values: Vec<f32>,
    /// Keys of what was not said and taken to be typical.
    pub assumed: Vec<String>,
}

/// Everything that is wrong with an application as written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ApplicantError(pub Vec<String>);

impl fmt::Display for ApplicantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this is not a loan application")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

/// Why a schema is none.
#[derive(Debug, thiserror::Error)]
#[error("damaged schema of loan applications: {0}")]
pub struct SchemaError(String);

impl Schema {
    /// Reads `schema.json`.
    pub fn parse(text: &str) -> Result<Self, SchemaError> {
        let schema: Self = serde_json::from_str(text).map_err(|error| SchemaError(error.to_string()))?;
        match schema.attributes.iter().enumerate().find(|(i, attribute)| attribute.column != *i) {
            Some((i, attribute)) => Err(SchemaError(format!("column {} where {i} belongs", attribute.column))),
            None => Ok(schema),
        }
    }

    /// Reads `key=value,key=value`.
    pub fn read(&self, text: &str) -> Result<Applicant, ApplicantError> {
        let mut values: Vec<Option<f32>> = vec![None; self.attributes.len()];
        let mut problems = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let Some((key, value)) = item.split_once('=') else {
                problems.push(format!("\"{item}\": expected key=value"));
                continue;
            };
            let (key, value) = (key.trim(), value.trim());
            let Some(attribute) = self.attributes.iter().find(|attribute| attribute.key == key) else {
                problems.push(match nearest(key, self.attributes.iter().map(|attribute| attribute.key.as_str())) {
                    Some(meant) => format!("unknown key \"{key}\", did you mean \"{meant}\"?"),
                    None => {
                        let known: Vec<&str> = self.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
                        format!("unknown key \"{key}\", there are: {}", known.join(", "))
                    }
                });
                continue;
            };
            if values[attribute.column].is_some() {
                problems.push(format!("{key} is given twice"));
                continue;
            }
            match attribute.read(value) {
                Ok(number) => values[attribute.column] = Some(number),
                Err(problem) => problems.push(problem),
            }
        }
        if !problems.is_empty() {
            return Err(ApplicantError(problems));
        }
        let unsaid = |attribute: &&Attribute| values[attribute.column].is_none();
        Ok(Applicant {
            assumed: self.attributes.iter().filter(unsaid).map(|attribute| attribute.key.clone()).collect(),
            values: values.iter().zip(&self.attributes).map(|(value, a)| value.unwrap_or(a.typical)).collect(),
        })
    }

    /// An application from the numbers that the model reads.
    pub fn from_numbers(&self, numbers: &[f32]) -> Option<Applicant> {
        (numbers.len() == self.attributes.len()).then(|| Applicant { values: numbers.to_vec(), assumed: Vec::new() })
    }

    /// The keys, in the order in which the model reads them.
    pub fn keys(&self) -> Vec<&str> {
        self.attributes.iter().map(|attribute| attribute.key.as_str()).collect()
    }

    /// The application in a few words: how much, for how long, for what.
    pub fn summary(&self, applicant: &Applicant) -> String {
        ["amount_dm", "duration_months", "purpose", "checking_account"]
            .iter()
            .filter_map(|key| self.attributes.iter().find(|attribute| attribute.key == *key))
            .map(|attribute| attribute.say(applicant.values[attribute.column]))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// All keys with what they can be, for people.
    pub fn help(&self) -> String {
        let mut text =
            String::from("A loan application is key=value,key=value,...; what is not given is typical (*).\n");
        for attribute in &self.attributes {
            text += &format!("\n  {:<24} {}\n", attribute.key, attribute.description);
            match &attribute.kind {
                Kind::Numeric { unit, minimum, maximum } => {
                    text += &format!("      {minimum} to {maximum} ({unit}), * {}\n", attribute.typical);
                }
                Kind::Categorical { codes } => {
                    for code in codes {
                        let mark = if code.code as f32 == attribute.typical { '*' } else { ' ' };
                        text += &format!("    {mark} {:<34} {}\n", code.key, code.meaning);
                    }
                }
            }
        }
        text
    }
}

impl Attribute {
    fn read(&self, text: &str) -> Result<f32, String> {
        match &self.kind {
            Kind::Numeric { unit, minimum, maximum } => match text.parse::<f32>() {
                // Whole, because the loan contract takes whole numbers.
                Ok(number) if (*minimum..=*maximum).contains(&number) && number.fract() == 0.0 => Ok(number),
                _ => Err(format!(
                    "{}=\"{text}\": expected a whole number from {minimum} to {maximum} ({unit})",
                    self.key
                )),
            },
            Kind::Categorical { codes } => {
                let found = codes.iter().find(|code| code.key == text || code.code.to_string() == text);
                found.map(|code| code.code as f32).ok_or_else(|| {
                    let known: Vec<&str> = codes.iter().map(|code| code.key.as_str()).collect();
                    match nearest(text, known.iter().copied()) {
                        Some(meant) => format!("{}=\"{text}\": did you mean {meant}?", self.key),
                        None => format!("{}=\"{text}\": expected one of {}", self.key, known.join(", ")),
                    }
                })
            }
        }
    }

    fn say(&self, value: f32) -> String {
        match &self.kind {
            Kind::Numeric { unit, .. } => format!("{value} {unit}"),
            Kind::Categorical { codes } => codes.iter().find(|code| code.code as f32 == value).map_or_else(
                || value.to_string(),
                // The first half says enough in a summary.
                |code| code.meaning.split(',').next().unwrap_or_default().to_owned(),
            ),
        }
    }
}

impl Applicant {
    /// The numbers, as a contract passes them.
    pub fn numbers(&self) -> &[f32] {
        &self.values
    }

    /// The bytes of a request: big-endian f32, in the order of the schema.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.values.iter().flat_map(|value| value.to_be_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r#"{ "name": "x", "attributes": [
        { "column": 0, "key": "purpose", "kind": "categorical", "description": "What for", "protected": false, "typical": 1, "codes": [
            { "code": 0, "key": "other", "meaning": "anything else" }, { "code": 1, "key": "new_car", "meaning": "new car" } ] },
        { "column": 1, "key": "amount_dm", "kind": "numeric", "description": "How much", "unit": "DM", "minimum": 250, "maximum": 18424, "typical": 2319 },
        { "column": 2, "key": "duration_months", "kind": "numeric", "description": "How long", "unit": "months", "minimum": 4, "maximum": 72, "typical": 18 }
    ] }"#;

    fn schema() -> Schema {
        Schema::parse(SCHEMA).unwrap()
    }

    #[test]
    fn words_become_numbers_and_what_is_unsaid_is_typical() {
        let applicant = schema().read("amount_dm=5000, purpose = other").unwrap();
        assert_eq!(applicant.values, [0.0, 5000.0, 18.0]);
        assert_eq!(applicant.assumed, ["duration_months"]);
        assert_eq!(applicant.to_bytes(), [[0, 0, 0, 0], 5000f32.to_be_bytes(), 18f32.to_be_bytes()].concat());
        assert_eq!(schema().summary(&applicant), "5000 DM, 18 months, anything else");
        assert_eq!(schema().read("purpose=1").unwrap().values[0], 1.0, "a code is as good as its word");
        assert_eq!(schema().read("").unwrap().assumed.len(), 3);
        assert_eq!(schema().from_numbers(&[0.0, 5000.0, 18.0]).unwrap().values, applicant.values);
        assert_eq!(schema().from_numbers(&[0.0]), None);
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let error = schema()
            .read("amount=5000,purpose=new_cat,duration_months=900,purpose,colour=red,amount_dm=x,amount_dm=NaN")
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "this is not a loan application\
             \n  - unknown key \"amount\", did you mean \"amount_dm\"?\
             \n  - purpose=\"new_cat\": did you mean new_car?\
             \n  - duration_months=\"900\": expected a whole number from 4 to 72 (months)\
             \n  - \"purpose\": expected key=value\
             \n  - unknown key \"colour\", there are: purpose, amount_dm, duration_months\
             \n  - amount_dm=\"x\": expected a whole number from 250 to 18424 (DM)\
             \n  - amount_dm=\"NaN\": expected a whole number from 250 to 18424 (DM)"
        );
        let error = schema().read("purpose=2,amount_dm=300,amount_dm=400").unwrap_err();
        assert_eq!(error.0, ["purpose=\"2\": expected one of other, new_car", "amount_dm is given twice"]);
    }

    #[test]
    fn the_help_lists_every_key() {
        let help = schema().help();
        for word in ["purpose", "new_car", "amount_dm", "250 to 18424 (DM), * 2319"] {
            assert!(help.contains(word), "{word} in {help}");
        }
    }

    #[test]
    fn a_damaged_schema_is_refused() {
        assert!(Schema::parse("{}").is_err());
        assert!(Schema::parse(&SCHEMA.replace("\"column\": 2", "\"column\": 3")).is_err());
    }
}
