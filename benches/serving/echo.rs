//! What questions are compared with: a process that answers each at once, with as many bytes.

use std::process::{Child, Command};

use futures::StreamExt;

/// Answers until it is killed.
pub fn answer(url: &str, subject: &str, bytes: usize) {
    let runtime = crate::runtime();
    let reply = bytes::Bytes::from(vec![7; bytes]);
    runtime.block_on(async {
        let nats = async_nats::connect(url).await.unwrap();
        let mut questions = nats.subscribe(subject.to_owned()).await.unwrap();
        while let Some(question) = questions.next().await {
            nats.publish(question.reply.unwrap(), reply.clone())
                .await
                .unwrap();
        }
    });
}

/// The process.
pub struct Echo(Child);

impl Echo {
    pub fn start(url: &str, subject: &str, bytes: usize) -> Self {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(std::env::current_exe().unwrap());
        Echo(
            command
                .args(["echo", url, subject, &bytes.to_string()])
                .spawn()
                .unwrap(),
        )
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
