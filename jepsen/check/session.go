package check

import (
	"github.com/capstan-kv/capstan/jepsen/contract"
	"github.com/capstan-kv/capstan/jepsen/history"
)

// The session workload: sessions that hop from node to node and from level to
// level, on keys that they share.
var (
	sessionReadsWrites = guarantee("read your writes", "a session sees what it has written, or what replaced it",
		func(o *history.Op) bool { return !o.Write() })
	sessionReads = guarantee("monotonic reads", "a session never sees an older value than it has seen",
		func(o *history.Op) bool { return !o.Write() })
	sessionWrites = guarantee("monotonic writes", "a session's writes are ordered as it made them",
		(*history.Op).Write)
	sessionFollows = guarantee("writes follow reads", "a session's write is ordered behind what the session had read",
		(*history.Op).Write)
	sessionAnswers = Checker{
		Workload: "session", Name: "answers",
		What:  "what is read was written, by a write that had begun and was not refused; each write is committed once, as one version",
		Check: byContract(unbounded(contract.CheckAnswers), answeredRead),
	}
	sessionNodes = Checker{
		Workload: "session", Name: "own writes",
		What:  "an eventual read sees what the node that answers it has taken, whosever it is",
		Check: byContract(unbounded(contract.CheckNodes), answeredRead),
	}
	sessionSuperseded = Checker{
		Workload: "session", Name: "superseded",
		What:  "each eventual write that lost had not heard of a linearizable one, or is older, and its receipt names the winner that the list of conflicts names",
		Check: byContract(unbounded(contract.CheckSuperseded), received),
	}
	sessionFates = Checker{
		Workload: "session", Name: "fates",
		What:  "each acknowledged eventual write is committed, or superseded and on the list of conflicts",
		Check: byContract(unbounded(contract.CheckFates), acknowledged),
	}
)

// guarantee judges one of the four: those that operations like judged can break.
func guarantee(name, what string, judged func(*history.Op) bool) Checker {
	only := func(h *contract.History) (found []contract.Violation) {
		for _, v := range contract.CheckSessions(h) {
			if v.Rule == name {
				found = append(found, v)
			}
		}
		return found
	}
	return Checker{
		Workload: "session", Name: name, What: what,
		Check: byContract(unbounded(only), func(o *history.Op) bool { return answered(o) && o.Session != "" && judged(o) }),
	}
}

// acknowledged eventual writes have a fate.
func acknowledged(o *history.Op) bool {
	return o.Write() && o.Level == history.Eventual && answered(o)
}
