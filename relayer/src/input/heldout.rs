//! Real inputs that the embedded models were not trained on, with what is true of them.
use super::{
    applicant::{Applicant, Schema},
    picture::{Digit, SIDE},
};

/// The words of loan applications.
const SCHEMA: &str = include_str!("../../models/credit/schema.json");
const LOANS: &str = include_str!("../../models/credit/heldout.csv");
const DIGITS: &[u8] = include_bytes!("../../models/digits/heldout.bin");

/// The schema of the embedded credit model.
pub fn schema() -> Schema {
    Schema::parse(SCHEMA).expect("the embedded schema is checked by a test")
}

/// A loan of the past, and whether it went bad.
#[derive(Clone, Debug, PartialEq)]
pub struct Loan {
    /// The application.
    pub applicant: Applicant,
    /// Whether it was not paid back as agreed.
    pub default: bool,
}

/// The loans that the credit model has not seen.
pub fn loans() -> Vec<Loan> {
    let schema = schema();
    let loan = |line: &str| {
        let numbers: Vec<f32> = line.split(',').map(|cell| cell.parse().ok()).collect::<Option<_>>()?;
        let (outcome, numbers) = numbers.split_last()?;
        Some(Loan { applicant: schema.from_numbers(numbers)?, default: *outcome == 1.0 })
    };
    LOANS.lines().skip(1).map(|line| loan(line).expect("the embedded loans are checked by a test")).collect()
}

/// The digits that the digit model has not seen, with what they are.
pub fn digits() -> impl Iterator<Item = (u8, &'static Digit)> {
    DIGITS.chunks_exact(1 + SIDE * SIDE).map(|record| {
        let digit = record[1..].try_into().expect("a record is a label and an image");
        (record[0], digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_data_is_whole() {
        let loans = loans();
        assert_eq!(loans.len(), LOANS.trim_end().lines().count() - 1);
        assert!(loans.iter().any(|loan| loan.default) && loans.iter().any(|loan| !loan.default));
        assert!(loans.iter().all(|loan| loan.applicant.to_bytes().len() == 80));
        let header: Vec<&str> = LOANS.lines().next().unwrap_or_default().split(',').collect();
        assert_eq!(header[..20], schema().keys(), "columns in the order of the schema");
        assert_eq!(DIGITS.len() % 785, 0);
        assert_eq!(digits().count(), DIGITS.len() / 785);
        for label in 0..10 {
            assert!(digits().any(|(is, _)| is == label), "there is a {label}");
        }
    }

    #[test]
    fn a_loan_can_be_written_in_words() {
        let schema = schema();
        let applicant = schema.read("purpose=new_car,amount_dm=5000,duration_months=36,age_years=30").unwrap();
        assert_eq!(applicant.to_bytes().len(), 80);
        assert_eq!(applicant.assumed.len(), 16);
        let text = schema.summary(&applicant);
        assert!(text.starts_with("5000 DM, 36 months, new car"), "{text}");
    }
}
