//! A gather in one piece: everybody's answer, and who did not give one.
//! CTRL asks the shards with it, WEB everybody else.

use gear_api::{Address, CallError, Client, Codec, Instance, Json, Operation};

/// What came of asking many.
#[derive(Debug)]
pub(crate) struct Gathered<Rep> {
    pub(crate) answers: Vec<(Instance, Rep)>,
    /// Who was expected and did not answer, or answered that it failed: a name, and why.
    pub(crate) missing: Vec<String>,
    /// Those of the missing that said nothing at all.
    pub(crate) silent: Vec<Instance>,
}

/// Asks `to`, where all of `expected` are, and waits until they have answered or the time of
/// the operation is over.
///
/// # Errors
///
/// [`CallError`] if the question did not get to anybody for another reason than that nobody
/// is there.
pub(crate) async fn gather<Req, Rep>(
    client: &Client,
    to: Address,
    operation: Operation<Req, Rep>,
    request: &Req,
    expected: &[Instance],
) -> Result<Gathered<Rep>, CallError>
where
    Json: Codec<Req> + Codec<Rep>,
    Rep: 'static,
{
    let mut gathered = Gathered { answers: Vec::new(), missing: Vec::new(), silent: Vec::new() };
    let asked = client.gather(to, operation, request).expect(expected).await;
    let mut answers = match asked {
        Ok(answers) => answers,
        Err(error @ CallError::NotRouted) => {
            let missing = expected.iter().map(|instance| format!("{instance} ({error})"));
            gathered.missing.extend(missing);
            gathered.silent.extend_from_slice(expected);
            return Ok(gathered);
        }
        Err(error) => return Err(error),
    };
    while let Some(answer) = answers.next().await {
        let Some(from) = answer.from else { continue };
        match answer.result {
            Ok(reply) => gathered.answers.push((from, reply)),
            Err(error) => gathered.missing.push(format!("{from} ({error})")),
        }
    }
    gathered.silent.extend(answers.missing().cloned());
    let silent = gathered.silent.iter().map(|instance| format!("{instance} (no answer in time)"));
    gathered.missing.extend(silent);
    Ok(gathered)
}
