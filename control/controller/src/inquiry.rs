//! Questions to nodes over their sessions, and who waits for the answers.

use parking_lot::Mutex;
use skein_proto::session::{Look, Looked, ToAgent, to_agent};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::node::SessionId;

/// How long nodes have for an answer, all together.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) type Outbox = mpsc::Sender<Result<ToAgent, Status>>;

/// What became of a question.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    /// The node said this.
    Said(Box<Looked>),
    /// It has no session.
    NotConnected,
    /// It said nothing in time; one of an older version never does.
    Silent,
}

/// Open sessions, and questions that wait.
#[derive(Debug, Default)]
pub(crate) struct Inquiries {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    sessions: HashMap<String, (SessionId, Outbox)>,
    waiting: HashMap<u64, (String, oneshot::Sender<Looked>)>,
}

impl Inquiries {
    /// A node's session has begun; it takes the place of an earlier one.
    pub(crate) fn opened(&self, node: &str, session: SessionId, outbox: Outbox) {
        self.state.lock().sessions.insert(node.to_owned(), (session, outbox));
    }

    /// A session has ended.
    pub(crate) fn closed(&self, node: &str, session: SessionId) {
        let sessions = &mut self.state.lock().sessions;
        if sessions.get(node).is_some_and(|(current, _)| *current == session) {
            sessions.remove(node);
        }
    }

    /// A node has answered. Whoever does not wait any more is not told, nor is anyone by another node than the asked.
    pub(crate) fn answered(&self, node: &str, looked: Looked) {
        let waiting = &mut self.state.lock().waiting;
        if waiting.get(&looked.id).is_some_and(|(asked, _)| asked == node)
            && let Some((_, waiter)) = waiting.remove(&looked.id)
        {
            let _ = waiter.send(looked);
        }
    }

    /// Asks all at once; the replies are in the order of the questions.
    pub(crate) async fn ask(&self, questions: Vec<(String, Look)>) -> Vec<Reply> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut asked = Vec::new();
        for (node, mut look) in questions {
            let (sender, answer) = oneshot::channel();
            let outbox = {
                let mut state = self.state.lock();
                state.last += 1;
                look.id = state.last;
                let outbox = state.sessions.get(&node).map(|(_, outbox)| outbox.clone());
                if outbox.is_some() {
                    state.waiting.insert(look.id, (node, sender));
                }
                outbox
            };
            let Some(outbox) = outbox else {
                asked.push(None);
                continue;
            };
            let id = look.id;
            let message = Ok(ToAgent { message: Some(to_agent::Message::Look(look)) });
            // A node that takes nothing at the moment gets no question, and so gives no answer.
            let _ = tokio::time::timeout_at(deadline, outbox.send(message)).await;
            asked.push(Some((id, answer)));
        }
        let mut replies = Vec::new();
        for one in asked {
            replies.push(match one {
                None => Reply::NotConnected,
                Some((id, answer)) => match tokio::time::timeout_at(deadline, answer).await {
                    Ok(Ok(looked)) => Reply::Said(Box::new(looked)),
                    _ => {
                        self.state.lock().waiting.remove(&id);
                        Reply::Silent
                    }
                },
            });
        }
        replies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_find_their_questions_and_silence_ends() {
        let inquiries = std::sync::Arc::new(Inquiries::default());
        let (outbox, mut asked) = mpsc::channel(4);
        inquiries.opened("one", SessionId(1), outbox.clone());
        inquiries.opened("mute", SessionId(2), outbox);
        let node = inquiries.clone();
        let answering = tokio::spawn(async move {
            while let Some(Ok(ToAgent { message: Some(to_agent::Message::Look(look)) })) =
                asked.recv().await
            {
                if look.interface == "ours" {
                    let looked = |problem: &str| Looked {
                        id: look.id,
                        problem: problem.into(),
                        ..Looked::default()
                    };
                    node.answered("another", looked("not its to say"));
                    node.answered("one", looked("said"));
                }
            }
        });
        let look = |interface: &str| Look { interface: interface.into(), ..Look::default() };
        let questions = [("one", "ours"), ("mute", "theirs"), ("nobody", "ours")]
            .map(|(node, interface)| (node.to_owned(), look(interface)));
        let replies = inquiries.ask(questions.to_vec()).await;
        let [Reply::Said(said), Reply::Silent, Reply::NotConnected] = &replies[..] else {
            unreachable!("{replies:?}")
        };
        assert_eq!(said.problem, "said");
        // The end of an older session does not end the present one.
        inquiries.closed("one", SessionId(0));
        assert!(inquiries.state.lock().sessions.contains_key("one"));
        inquiries.closed("one", SessionId(1));
        inquiries.closed("mute", SessionId(2));
        assert_eq!(inquiries.ask(vec![("one".into(), look("ours"))]).await, [Reply::NotConnected]);
        assert!(inquiries.state.lock().waiting.is_empty());
        answering.await.unwrap_or_default();
    }
}
