package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/client"
)

func Example() {
	cluster := newFakeCluster(3, 16) // stands for a running cluster
	defer cluster.close()

	c, err := client.New(client.Options{Endpoints: cluster.endpoints()})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()

	if _, err := c.Put(ctx, []byte("cart:42"), []byte("apple")); err != nil {
		log.Fatal(err)
	}
	got, err := c.Get(ctx, []byte("cart:42"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%t %s\n", got.Found, got.Value)
	// Output: true apple
}

// A write that failed is one of two things, and only one of them may be tried
// again.
func ExampleIsNotApplied() {
	cluster := newFakeCluster(1, 16)
	defer cluster.close()
	c, err := client.New(client.Options{Endpoints: cluster.endpoints()})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()

	for range 2 {
		_, err = c.Put(ctx, []byte("lock"), []byte("me"), client.IfAbsent())
		switch {
		case err == nil:
			fmt.Println("locked")
		case errors.Is(err, client.ErrConditionFailed):
			fmt.Println("held by another")
		case client.IsNotApplied(err):
			fmt.Println("nothing was written: a retry is safe")
		case client.IsOutcomeUnknown(err):
			fmt.Println("read the key before writing again")
		}
	}
	// Output:
	// locked
	// held by another
}

func ExampleClient_Scan() {
	cluster := newFakeCluster(1, 16)
	defer cluster.close()
	c, err := client.New(client.Options{Endpoints: cluster.endpoints()})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()

	for _, k := range []string{"fruit:fig", "fruit:apple", "root:beet"} {
		if _, err := c.Put(ctx, []byte(k), nil); err != nil {
			log.Fatal(err)
		}
	}
	for entry, err := range c.Scan(ctx, client.Prefix([]byte("fruit:")), client.KeysOnly()) {
		if err != nil {
			log.Fatal(err) // the scan is incomplete
		}
		fmt.Printf("%s\n", entry.Key)
	}
	// Output:
	// fruit:apple
	// fruit:fig
}

// An eventual write is accepted by whatever node can be reached. What became of
// it is known later.
func ExampleClient_AwaitWrite() {
	cluster := newFakeCluster(3, 16)
	defer cluster.close()
	cluster.fates = []capstanv1.Fate{capstanv1.Fate_FATE_COMMITTED}
	c, err := client.New(client.Options{Endpoints: cluster.endpoints()})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()

	put, err := c.Put(ctx, []byte("cart:42"), []byte("pear"), client.Eventual(), client.Acks(2))
	if err != nil {
		log.Fatal(err)
	}
	write, err := c.AwaitWrite(ctx, put.Receipt, 10*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	switch write.Fate {
	case capstanv1.Fate_FATE_COMMITTED:
		fmt.Println("committed under index", write.Version.Index)
	case capstanv1.Fate_FATE_SUPERSEDED:
		fmt.Println("lost to", write.Version)
	case capstanv1.Fate_FATE_PENDING:
		fmt.Println("no leader yet: ask again")
	}
	// Output: committed under index 2
}

// Each user of a program has a session of their own, whose token the program
// keeps for them.
func ExampleSession() {
	cluster := newFakeCluster(3, 16)
	defer cluster.close()
	cluster.sessions = &fakeSessions{name: "token"}
	c, err := client.New(client.Options{Endpoints: cluster.endpoints()})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()

	cookie := "" // of a user who is here for the first time
	put, err := c.Put(ctx, []byte("name"), []byte("Ada"), client.Eventual(), client.Session(cookie))
	if err != nil {
		log.Fatal(err)
	}
	cookie = put.Session
	got, err := c.Get(ctx, []byte("name"), client.Bounded(5*time.Second), client.Session(cookie))
	if err != nil {
		log.Fatal(err)
	}
	cookie = got.Session
	fmt.Printf("%s, to go on with %s\n", got.Value, cookie)
	// Output: Ada, to go on with token_1_2
}

func ExampleVia() {
	cluster := newFakeCluster(3, 16)
	defer cluster.close()
	c, err := client.New(client.Options{Endpoints: cluster.endpoints()})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	got, err := c.Get(context.Background(), []byte("cart:42"), client.Via("n2"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(got.Found, "by", got.Freshness.ServedBy)
	// Output: false by n2
}
