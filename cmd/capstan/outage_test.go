package main

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
)

func TestStatusNamesReplicasOutOfService(t *testing.T) {
	var out strings.Builder
	since := timestamppb.New(time.Date(2026, 11, 30, 17, 0, 0, 0, time.UTC))
	quarantined := &capstanv1.Outage{Quarantined: true, Reason: "the table is damaged", Since: since, Remedy: "empty it"}
	showStatus(&out, &capstanv1.GetStatusResponse{Partitions: []*capstanv1.Partition{
		{Id: 4, Leader: "n1", Replicas: []*capstanv1.Replica{{Node: "n1"}, {Node: "n3", Outage: quarantined}}},
		{Id: 5, Leader: "n1", Replicas: []*capstanv1.Replica{{Node: "n1"}, {Node: "n3", Outage: quarantined}}},
		{Id: 6, Leader: "n1", Replicas: []*capstanv1.Replica{{Node: "n1", Outage: &capstanv1.Outage{Reason: "no reason", Since: since, Remedy: "restart"}}}},
	}})
	const want = `
replica of partition 4 on n3: quarantined since 2026-11-30T17:00:00Z
  why: the table is damaged

replica of partition 5 on n3: quarantined since 2026-11-30T17:00:00Z
  why: the table is damaged

replica of partition 6 on n1: not opened since 2026-11-30T17:00:00Z
  why: no reason

requests are answered by the other replicas; to have all of them again:
  on n3: empty it
  on n1: restart
`
	if !strings.HasSuffix(out.String(), want) {
		t.Errorf("%s", out.String())
	}
}
