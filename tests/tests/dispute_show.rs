//! `candor dispute` against a game that is being played: what a stranger reads there at each stage of it.

use anyhow::{Context, Result, ensure};
use candor_sdk::{dispute::Case, program::Op};
use candor_tests::{
    Court, Hand, Operator,
    liars::{Lie, Story},
    process::{candor_binary, write_watching_config},
    world::ether,
};
use std::{collections::HashMap, path::PathBuf, sync::Arc};
use tokio::process::Command;

/// Somebody with a terminal, a configuration and a key.
struct Person {
    config: PathBuf,
    key: String,
}

impl Person {
    async fn run(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let output = Command::new(candor_binary()?)
            .arg("--config")
            .arg(&self.config)
            .args(arguments)
            .env("CANDOR_PRIVATE_KEY", &self.key)
            .env("NO_COLOR", "1")
            .output()
            .await?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("$ candor {}\n{text}", arguments.join(" "));
        Ok((output.status.code().context("it was killed")?, text))
    }

    /// Runs a command that has to succeed, and has to say these things.
    async fn reads(&self, arguments: &[&str], wanted: &[&str]) -> Result<String> {
        let (code, text) = self.run(arguments).await?;
        ensure!(code == 0, "candor {} failed with {code}:\n{text}", arguments.join(" "));
        for words in wanted {
            ensure!(text.contains(words), "candor {} does not say {words:?}:\n{text}", arguments.join(" "));
        }
        Ok(text)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_game_is_told_from_the_challenge_to_the_verdict() -> Result<()> {
    let mut court = Court::new().await?;
    let credit = court.embedded_model("credit")?;
    let liar = court.world.operator_for(ether(2), &[credit.id]).await?;
    let account = Operator { key: court.world.account().await? };
    let court = Arc::new(court);
    let config = write_watching_config(&court.folder("person")?, &court.world, &court.world.rpc_url(), "1 ether")?;
    let person = Person { config, key: account.key_hex() };

    person.reads(&["dispute", "list"], &["no disputes"]).await?;
    let (right, wrong) =
        (court.ask(credit.id, &credit.question(1)).await?, court.ask(credit.id, &credit.question(2)).await?);
    let hand = Hand::new(&court, &liar.key, &credit.model).await?;
    hand.answer(right, &credit.model.interpret(&court.question(right).await?)?.output).await?;
    // A middle layer.
    let layers: Vec<usize> = (0..credit.model.program.nodes.len())
        .filter(|node| matches!(credit.model.program.nodes[*node].op, Op::Linear))
        .collect();
    let node = u32::try_from(layers[layers.len() / 2])?;
    let label = credit.model.program.nodes[node as usize].label.clone();
    let story = Story::of(&credit.model, &court.question(wrong).await?, &Lie::Node(node, 1))?;
    hand.answer(wrong, &story.output).await?;
    let (code, text) = person.run(&["dispute", "challenge", &right.0.to_string()]).await?;
    ensure!(code != 0 && text.contains("is right"), "{text}");
    let id = wrong.0.to_string();
    person.reads(&["dispute", "challenge", &id, "--dry-run"], &["is wrong", "0.01 ether"]).await?;
    person.reads(&["dispute", "challenge", &id], &["is wrong", "challenged with 0.01 ether"]).await?;
    person.reads(&["dispute", "list"], &["request #2", "operator: say what the run was", "left"]).await?;
    let (code, text) = person.run(&["dispute", "show", "7"]).await?;
    ensure!(code != 0 && text.contains("no dispute 7"), "{text}");
    let stage = [
        "dispute 1 over the answer of model credit to request #2",
        &format!("operator    {} answered it", liar.address()),
        &format!("challenger  {} says that the answer is wrong", account.address()),
        "at stake    0.1 ether of the operator's, 0.01 ether of the challenger's; the reward is 0.02 ether",
        "next        operator: say what the run was",
        "time left   ",
        "moves       0 so far",
        "└ nothing yet: the operator has to say what its run was",
    ];
    person.reads(&["dispute", "show", "1"], &stage).await?;

    // The person's relayer goes on with what the person began; the liar plays by hand, so that every stage can be looked at.
    let served = HashMap::from([(credit.id, credit.honest())]);
    let watcher = court.watcher("watcher", &account.key, served, ether(1)).await?;
    let trace = story.trace();
    let opened = async || Ok(court.cases(wrong).await?.first().map(Case::id));
    let dispute = court.wait("a challenge", &[&watcher], opened).await?;
    let mut seen = Vec::new();
    loop {
        let look = async || {
            let case = hand.case(dispute).await?;
            Ok((case.ended.is_some() || case.is_operators_turn()).then_some(case))
        };
        let case = court.wait("the next turn", &[&watcher], look).await?;
        if case.ended.is_some() {
            break;
        }
        seen.push(person.reads(&["dispute", "show", "1"], &["next        operator: "]).await?);
        let next = hand.defence(&case, &trace)?.context("no move")?;
        ensure!(hand.make(&case, &next).await?, "the game refused {}", next.name());
    }
    // As soon as the leaf is shown, the element is known.
    court.convicted(&[wrong], &[&watcher]).await?;
    let node = &format!("└ node {node}: {label} (Linear)");
    ensure!(seen.len() > 1 && seen.last().is_some_and(|text| text.contains(node)), "which node of which layer");
    let end = [
        "ended       the result fell: the chain recomputed a piece of it, and it was wrong",
        "paid        0.0",
        "the operator's run: 12 nodes over 80 bytes of input, under hash 0x",
        node,
        "└ row 0, column 0: claimed ",
        ", right ",
    ];
    person.reads(&["dispute", "show", "1"], &end).await?;
    person.reads(&["dispute", "list"], &["over request #2", "the result fell"]).await?;
    let json = [
        "\"outcome\":\"Rejected\"".to_owned(),
        format!("\"label\":\"{label} (Linear)\""),
        "\"row\":0,".to_owned(),
        "\"claimed\":\"".to_owned(),
    ];
    let json: Vec<&str> = json.iter().map(String::as_str).collect();
    person.reads(&["dispute", "show", "1", "--json"], &json).await?;
    drop(hand);
    let mut court = Arc::into_inner(court).context("somebody still plays")?;
    court.answer(&[wrong], &[&watcher]).await?;
    watcher.stop().await
}
