package workload

import "github.com/capstan-kv/capstan/jepsen/history"

var eventual = Workload{
	Name: "eventual",
	What: "eventual writes through every node, of values that nobody writes twice: all nodes come to agree, and each write is accounted for",
	New: func(c Config) Generator {
		return newLevels("eventual", c, 300, []choice{
			{45, history.Op{Func: history.Put, Level: history.Eventual}},
			{8, history.Op{Func: history.Put, Level: history.Eventual, Acks: 2}},
			{5, history.Op{Func: history.Delete, Level: history.Eventual}},
			{42, history.Op{Func: history.Get, Level: history.Eventual}},
		})
	},
}
