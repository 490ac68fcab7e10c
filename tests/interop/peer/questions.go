package main

import (
	"errors"
	"net/http"
	"path"
	"strconv"
	"time"
)

// How long a question with a condition waits when it does not say.
const defaultWait = 10 * time.Second

// query reads the conditions that the GET questions share.
type query struct {
	rpc, state, interception string
	min, open                int
	timeout                  time.Duration
}

func readQuery(r *http.Request) (query, error) {
	values := r.URL.Query()
	q := query{
		rpc: values.Get("rpc"), state: values.Get("state"),
		interception: values.Get("interception_id"), open: -1, timeout: defaultWait,
	}
	if text := values.Get("min"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			return q, errors.New("min must be a number")
		}
		q.min = n
	}
	if text := values.Get("open"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			return q, errors.New("open must be a number")
		}
		q.open = n
	}
	if text := values.Get("timeout"); text != "" {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return q, errors.New("timeout must be a number of seconds")
		}
		q.timeout = time.Duration(seconds * float64(time.Second))
	}
	return q, nil
}

func (q query) wants(rpc string) bool {
	ok, _ := path.Match(q.rpc, rpc)
	return q.rpc == "" || ok
}

// ask answers a list as soon as it is long enough, or the time is up.
func ask[T any](p *Peer, r *http.Request, name string, list func(query) []T) (any, error) {
	q, err := readQuery(r)
	if err != nil {
		return nil, err
	}
	found := []T{}
	met := p.await(r.Context(), q.timeout, func() bool {
		found = append([]T{}, list(q)...)
		return len(found) >= q.min
	})
	return map[string]any{name: found, "timed_out": !met}, nil
}

func (p *Peer) getUpgrades(r *http.Request) (any, error) {
	return ask(p, r, "upgrades", func(query) []Upgrade {
		var list []Upgrade
		for _, u := range p.upgrades {
			list = append(list, *u)
		}
		return list
	})
}

func (p *Peer) getCalls(r *http.Request) (any, error) {
	return ask(p, r, "calls", func(q query) []call {
		var list []call
		for _, c := range p.calls {
			if q.wants(c.RPC) && (q.state == "" || q.state == c.State) {
				list = append(list, *c)
			}
		}
		return list
	})
}

func (p *Peer) getRecords(r *http.Request) (any, error) {
	return ask(p, r, "records", func(q query) []Record {
		var list []Record
		for _, record := range p.records {
			id := record.Record["interception_id"]
			if id == nil {
				id = record.Record["id"]
			}
			if q.wants(record.RPC) && (q.interception == "" || q.interception == id) {
				list = append(list, record)
			}
		}
		return list
	})
}

// getSessions differs from the others: it may wait for a number of open ones.
func (p *Peer) getSessions(r *http.Request) (any, error) {
	q, err := readQuery(r)
	if err != nil {
		return nil, err
	}
	type shown struct {
		session
		Streams int `json:"open_streams"`
	}
	found := []shown{}
	met := p.await(r.Context(), q.timeout, func() bool {
		found = found[:0]
		open := 0
		for _, s := range p.sessions {
			found = append(found, shown{*s, s.mux.NumStreams()})
			if s.Open {
				open++
			}
		}
		return len(found) >= q.min && (q.open < 0 || q.open == open)
	})
	return map[string]any{"sessions": found, "timed_out": !met}, nil
}

func (p *Peer) deleteRecords(*http.Request) (any, error) {
	p.update(func() { p.records, p.calls = nil, nil })
	return struct{}{}, nil
}
