//! A checkpoint by itself, wherever it lies: a folder or file of this machine, or a repository on a hub of which
//! nothing is fetched but what is read.

use std::sync::Arc;

use super::base::open_repo;
use super::sides::{Named, is_wanted};
use crate::checkpoint::files::is_worth_reading;
use crate::checkpoint::{Checkpoint, FileSet, folder};
use crate::claim::{self, ResolvedClaim};
use crate::error::Result;
use crate::hub::{Client, DEFAULT, Environment, Meter, RepoInfo};
use crate::ids::{Location, RepoId, Revision};
use crate::limits;

/// The files of a checkpoint, and how it is named.
pub struct Located {
    /// How records name it.
    pub named: Named,
    /// Its files; those of a hub are read by range.
    pub files: FileSet,
    /// What the hub says of it, where it was asked.
    pub facts: Option<RepoInfo>,
    /// Its name on its hub.
    pub id: Option<RepoId>,
}

impl Located {
    /// A path or a repository as a user gives it.
    pub fn open(what: &str, client: &Arc<Client>, environment: &Environment, meter: &Arc<Meter>) -> Result<Self> {
        match what.parse::<Location>()? {
            Location::Path(path) => {
                Ok(Self { named: Named::local(what), files: folder::file_set(&path)?, facts: None, id: None })
            }
            Location::Hub(id, revision) => Self::of_hub(&id, revision.as_ref(), client, environment, meter),
        }
    }

    /// A repository on a hub, at its newest revision where none is named.
    pub fn of_hub(
        id: &RepoId,
        revision: Option<&Revision>,
        client: &Arc<Client>,
        environment: &Environment,
        meter: &Arc<Meter>,
    ) -> Result<Self> {
        let (repo, facts) = open_repo(id, revision, client, environment, meter)?;
        let mut files = FileSet { label: repo.id().to_string(), ..FileSet::default() };
        for file in repo.files() {
            let card = file.path == "README.md";
            let small = is_worth_reading(&file.path) || file.bytes <= limits::MAX_JSON_BYTES;
            if !(small && (card || is_wanted(&file.path))) {
                continue;
            }
            files.files.insert(file.path.clone(), repo.source(file, meter)?);
            if let Some(sha256) = file.sha256 {
                files.digests.insert(file.path.clone(), sha256);
            }
        }
        let named = Named { source: repo.id().to_string(), revision: Some(repo.revision().to_string()) };
        Ok(Self { named, files, facts, id: Some(repo.id().clone()) })
    }

    /// What it says of its origin: in its own files, and in what the hub makes of them.
    pub fn claim(&self, opened: &Checkpoint) -> Result<ResolvedClaim> {
        let mut declared = claim::files::declarations(&self.files, Some(opened))?;
        if let Some(facts) = &self.facts {
            declared.tags.clone_from(&facts.tags);
            declared.base_models.clone_from(&facts.base_models);
            if declared.card.is_null() {
                declared.card.clone_from(&facts.card);
            }
        }
        let own = self.id.as_ref().map_or(self.named.source.as_str(), |id| id.name.as_str());
        Ok(claim::resolve(&declared, own, None))
    }

    /// The prefix of the hub that its claims speak of.
    pub fn hub(&self) -> String {
        self.id.as_ref().map_or_else(|| DEFAULT.prefix.to_owned(), |id| id.hub.clone())
    }
}
