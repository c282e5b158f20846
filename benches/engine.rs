//! Requests from end to end on the demo checkpoint, and steps of a model of published shapes:
//! `cargo bench --bench engine [-- TEXT]`.
//!
//! Times are those of the host's clock, from a question to its answer. The rows `process/…` start
//! the program anew each time: what a person waits for.
#![expect(clippy::unwrap_used, reason = "a bench that fails panics")]

#[path = "../tests/support/checkpoint.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::allow_attributes,
    reason = "of the tests' recipe only the writing of a checkpoint is used here"
)]
mod checkpoint;

mod harness;
mod models;
#[expect(dead_code, reason = "shapes of single kernels are for the bench of kernels")]
mod shapes;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use qwen2vl::engine::{Engine, Event, Request, Sampling};
use qwen2vl::prompt::{Conversation, Conversations};
use serde_json::Value;

use harness::{Bench, DEMO};

fn main() {
    let mut bench = Bench::new();
    let questions = questions();
    process(&mut bench, &questions[0]);
    load(&mut bench);
    answers(&mut bench, &questions);
    models::models(&mut bench);
    bench.criterion.final_summary();
}

/// One question of the demo.
struct Question {
    name: String,
    kind: String,
    conversation: Conversation,
    add_vision_id: bool,
    expected: String,
}

/// The question of the README, then the first of each kind and task.
fn questions() -> Vec<Question> {
    let text = std::fs::read(Path::new(DEMO).join("questions.json")).unwrap();
    let document: Vec<Value> = serde_json::from_slice(&text).unwrap();
    let field = |case: &Value, key: &str| case[key].as_str().unwrap().to_owned();
    let mut seen = BTreeSet::new();
    let cases = document.iter().filter(|case| {
        // Videos are not built.
        !case["messages"].to_string().contains("\"video\"")
            && seen.insert((field(case, "kind"), field(case, "task")))
    });
    let mut questions: Vec<Question> = cases
        .map(|case| {
            let messages = case["messages"].to_string();
            let read = Conversations::from_json(messages.as_bytes(), Path::new(DEMO)).unwrap();
            Question {
                name: field(case, "name"),
                kind: field(case, "kind"),
                conversation: read.list[0].clone(),
                add_vision_id: case["options"]["add_vision_id"] == true,
                expected: field(case, "expected_text"),
            }
        })
        .collect();
    questions.sort_by_key(|question| question.name != "pair_describe");
    assert_eq!(questions[0].name, "pair_describe");
    questions
}

impl Question {
    fn request(&self) -> Request {
        Request::conversation(self.conversation.clone())
            .add_vision_id(self.add_vision_id)
            .sampling(Sampling::greedy())
    }
}

/// The program from its start: to the first token, and to the whole answer.
fn process(bench: &mut Bench, question: &Question) {
    let image = format!("{DEMO}/media/pair.png");
    let run = |tokens: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_qwen2vl"))
            .args(["run", &format!("{DEMO}/model"), "Describe this image.", "--image", &image])
            .args(["--greedy", "--max-new-tokens", tokens])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run("64").trim_end(), question.expected);
    let (group, _) = bench.name("process/_");
    let mut group = bench.criterion.benchmark_group(group);
    group.bench_function("first_token/pair_describe", |bencher| bencher.iter(|| run("1")));
    group.bench_function("answer/pair_describe", |bencher| bencher.iter(|| run("64")));
    group.finish();
}

fn engine() -> Engine {
    Engine::builder(format!("{DEMO}/model")).build().unwrap()
}

fn load(bench: &mut Bench) {
    let (group, name) = bench.name("load/demo");
    let mut group = bench.criterion.benchmark_group(group);
    group.bench_function(name, |bencher| bencher.iter_with_large_drop(engine));
    group.finish();
}

/// The engine is loaded and warm: `answer/…` to the end token, `first_token/…` for each kind.
fn answers(bench: &mut Bench, questions: &[Question]) {
    let engine = engine();
    let mut kinds = BTreeSet::new();
    for question in questions {
        let answer = engine.submit(question.request()).unwrap().finish().unwrap();
        assert_eq!(answer.text, question.expected, "{}", question.name);
        let (group, _) = bench.name("answer/_");
        let mut group = bench.criterion.benchmark_group(group);
        group.bench_function(question.name.as_str(), |bencher| {
            bencher.iter(|| engine.submit(question.request()).unwrap().finish().unwrap());
        });
        group.finish();
        if !kinds.insert(question.kind.as_str()) {
            continue;
        }
        let (group, _) = bench.name("first_token/_");
        let mut group = bench.criterion.benchmark_group(group);
        group.bench_function(question.name.as_str(), |bencher| {
            bencher.iter(|| first_token(&engine, question));
        });
        group.finish();
    }
}

/// Stops after it; the rest is cancelled.
fn first_token(engine: &Engine, question: &Question) -> String {
    for event in engine.submit(question.request()).unwrap() {
        if let Event::Token(token) = event.unwrap() {
            return token.text;
        }
    }
    unreachable!("an answer without a token")
}
