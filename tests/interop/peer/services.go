package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"storj.io/drpc"
	"storj.io/drpc/drpcerr"

	"peer/pb"
)

var recorder = service{
	unary("/proto.Recorder/RecordInterception", 0, (*session).recordInterception),
	unary("/proto.Recorder/RecordInterceptionEnded", 0, (*session).recordEnded),
	unary("/proto.Recorder/RecordTokenUsage", 0, (*session).recordTokenUsage),
	unary("/proto.Recorder/RecordPromptUsage", 0,
		func(s *session, in *pb.RecordPromptUsageRequest) (*pb.RecordPromptUsageResponse, error) {
			return &pb.RecordPromptUsageResponse{}, s.store("RecordPromptUsage", in.GetInterceptionId(), in)
		}),
	unary("/proto.Recorder/RecordToolUsage", 0,
		func(s *session, in *pb.RecordToolUsageRequest) (*pb.RecordToolUsageResponse, error) {
			return &pb.RecordToolUsageResponse{}, s.store("RecordToolUsage", in.GetInterceptionId(), in)
		}),
	unary("/proto.Recorder/RecordModelThought", 0,
		func(s *session, in *pb.RecordModelThoughtRequest) (*pb.RecordModelThoughtResponse, error) {
			return &pb.RecordModelThoughtResponse{}, s.store("RecordModelThought", in.GetInterceptionId(), in)
		}),
}

var authorizer = service{
	unary("/proto.Authorizer/IsAuthorized", 0, (*session).isAuthorized),
	unary("/proto.Authorizer/IsBudgetExceeded", 1, (*session).isBudgetExceeded),
}

// checkUUID takes the usual 36 characters only; coderd also takes a few rarer forms.
func checkUUID(text string) error {
	if len(text) != 36 {
		return fmt.Errorf("invalid UUID length: %d", len(text))
	}
	for _, i := range []int{8, 13, 18, 23} {
		if text[i] != '-' {
			return errors.New("invalid UUID format")
		}
	}
	if raw, err := hex.DecodeString(strings.ReplaceAll(text, "-", "")); err != nil || len(raw) != 16 {
		return errors.New("invalid UUID format")
	}
	return nil
}

func (s *session) recordInterception(in *pb.RecordInterceptionRequest) (*pb.RecordInterceptionResponse, error) {
	if err := checkUUID(in.GetId()); err != nil {
		return nil, fmt.Errorf("invalid interception ID %q: %w", in.GetId(), err)
	}
	if err := checkUUID(in.GetInitiatorId()); err != nil {
		return nil, fmt.Errorf("invalid initiator ID %q: %w", in.GetInitiatorId(), err)
	}
	if in.GetApiKeyId() == "" {
		return nil, errors.New("empty API key ID")
	}
	known := false
	s.peer.update(func() {
		if _, known = s.peer.interceptions[in.GetId()]; !known {
			s.peer.interceptions[in.GetId()] = false
			s.append("RecordInterception", in)
		}
	})
	if known {
		return nil, errors.New("start interception: duplicate key value violates unique constraint")
	}
	return &pb.RecordInterceptionResponse{}, nil
}

func (s *session) recordEnded(in *pb.RecordInterceptionEndedRequest) (*pb.RecordInterceptionEndedResponse, error) {
	if err := checkUUID(in.GetId()); err != nil {
		return nil, fmt.Errorf("invalid interception ID %q: %w", in.GetId(), err)
	}
	running := false
	s.peer.update(func() {
		ended, known := s.peer.interceptions[in.GetId()]
		if running = known && !ended; running {
			s.peer.interceptions[in.GetId()] = true
			s.append("RecordInterceptionEnded", in)
		}
	})
	if !running {
		// coderd's update finds no row of this id without an end.
		return nil, errors.New("end interception: sql: no rows in result set")
	}
	return &pb.RecordInterceptionEndedResponse{}, nil
}

func (s *session) recordTokenUsage(in *pb.RecordTokenUsageRequest) (*pb.RecordTokenUsageResponse, error) {
	id := in.GetInterceptionId()
	// The price depends on the interception, so this record alone needs it to exist.
	if checkUUID(id) == nil {
		s.peer.mu.Lock()
		_, known := s.peer.interceptions[id]
		s.peer.mu.Unlock()
		if !known {
			return nil, fmt.Errorf("record token usage and spend: get interception %q: no such interception", id)
		}
	}
	return &pb.RecordTokenUsageResponse{}, s.store("RecordTokenUsage", id, in)
}

func (s *session) store(rpc, interception string, in proto.Message) error {
	if err := checkUUID(interception); err != nil {
		return fmt.Errorf("failed to parse interception_id %q: %w", interception, err)
	}
	s.peer.update(func() { s.append(rpc, in) })
	return nil
}

// append stores a record.  The caller holds the lock.
func (s *session) append(rpc string, in proto.Message) {
	p := s.peer
	p.records = append(p.records, Record{Seq: len(p.records) + 1, RPC: rpc, Session: s.Seq, Record: view(in)})
}

// refuse gives an authentication error the code that newer servers send.
func (s *session) refuse(text string) error {
	var code uint64
	if s.coded() {
		code = codeAuthentication
	}
	return drpcerr.WithCode(errors.New(text), code)
}

const (
	codeAuthentication = 1001
	codePolicy         = 1002
	codeMalformed      = 1004
)

func (s *session) coded() bool {
	return s.atLeast(4) && s.peer.snapshot().Server.AuthorizationCodes
}

// isAuthorized checks in coderd's order; the expiry comes before the secret.
func (s *session) isAuthorized(in *pb.IsAuthorizedRequest) (*pb.IsAuthorizedResponse, error) {
	if in.GetKey() != "" && in.GetKeyId() != "" {
		return nil, s.refuse("both key and key_id set; exactly one required")
	}
	id := in.GetKeyId()
	if in.GetKey() != "" || id == "" {
		var secret string
		id, secret, _ = strings.Cut(in.GetKey(), "-")
		if id == "" || secret == "" {
			return nil, s.refuse("invalid key")
		}
	}
	users := s.peer.snapshot().Users
	at := slices.IndexFunc(users, func(u User) bool { return keyID(u.Key) == id })
	if at < 0 {
		return nil, s.refuse("unknown key")
	}
	user := users[at]
	switch {
	case user.Expired:
		return nil, s.refuse("expired")
	case in.GetKey() != "" && in.GetKey() != user.Key:
		return nil, s.refuse("invalid key")
	case user.State != "" && user.State != "active":
		return nil, s.refuse(user.State + " user")
	}
	if err := s.checkModel(user, in); err != nil {
		return nil, err
	}
	out := &pb.IsAuthorizedResponse{OwnerId: user.OwnerID, ApiKeyId: id, Username: user.Username}
	if s.atLeast(3) {
		out.WorkspaceId = user.WorkspaceID
	}
	if s.atLeast(4) {
		out.Email = user.Email
	}
	return out, nil
}

func (s *session) checkModel(user User, in *pb.IsAuthorizedRequest) error {
	if !s.atLeast(4) || (in.ProviderName == nil && in.Model == nil) {
		return nil
	}
	provider, model := in.GetProviderName(), in.GetModel()
	if provider == "" || model == "" {
		return drpcerr.WithCode(errors.New("provider_name and model must be set together"), codeMalformed)
	}
	if user.Models != nil && !slices.Contains(user.Models, provider+"/"+model) {
		return drpcerr.WithCode(fmt.Errorf("model %q of provider %q is not allowed", model, provider), codePolicy)
	}
	return nil
}

func keyID(key string) string {
	id, _, _ := strings.Cut(key, "-")
	return id
}

func (s *session) isBudgetExceeded(in *pb.IsBudgetExceededRequest) (*pb.IsBudgetExceededResponse, error) {
	if err := checkUUID(in.GetUserId()); err != nil {
		return nil, fmt.Errorf("invalid user_id %q: %w", in.GetUserId(), err)
	}
	budget := s.peer.snapshot().Budgets[in.GetUserId()]
	return &pb.IsBudgetExceededResponse{Exceeded: budget.Exceeded, SpendLimitMicros: budget.SpendLimitMicros}, nil
}

var _ drpc.Description = service(nil)
