// A CRI client for the tests: Kubernetes' own definitions of the messages (k8s.io/cri-api),
// gRPC, and JSON on both standard streams. It knows no method by name.
//
//	cri ADDRESS
//
// Each line of standard input is a call, each line of standard output its answer:
//
//	{"method": "RuntimeService/RunPodSandbox", "seconds": 60, "request": {...}}
//	{"response": {...}, "nanoseconds": 1}  or  {"code": "...", "error": "...", "nanoseconds": 1}
//
// A call waits, within its time, for a server that is not there yet.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type call struct {
	Method  string          `json:"method"`
	Seconds float64         `json:"seconds"`
	Request json.RawMessage `json:"request"`
}

type answer struct {
	Response    json.RawMessage `json:"response,omitempty"`
	Code        string          `json:"code,omitempty"`
	Error       string          `json:"error,omitempty"`
	Nanoseconds int64           `json:"nanoseconds"`
}

func main() {
	if len(os.Args) != 2 {
		fail(fmt.Errorf("usage: cri ADDRESS, for example unix:///run/containerd/containerd.sock"))
	}
	// A server that was restarted is found again at once.
	retry := backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1, MaxDelay: 20 * time.Millisecond}
	connection, err := grpc.NewClient(os.Args[1],
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: time.Second}))
	if err != nil {
		fail(err)
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		if err := answers.Encode(made(connection, lines.Bytes())); err != nil {
			fail(err)
		}
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "cri:", err)
	os.Exit(1)
}

func made(connection *grpc.ClientConn, line []byte) answer {
	var call call
	if err := json.Unmarshal(line, &call); err != nil {
		return refused(err)
	}
	request, response, err := messages(call.Method)
	if err != nil {
		return refused(err)
	}
	if err := protojson.Unmarshal(call.Request, request); err != nil {
		return refused(err)
	}
	limit, cancel := context.WithTimeout(context.Background(), time.Duration(call.Seconds*float64(time.Second)))
	defer cancel()
	started := time.Now()
	err = connection.Invoke(limit, "/runtime.v1."+call.Method, request, response, grpc.WaitForReady(true))
	took := time.Since(started).Nanoseconds()
	if err != nil {
		said := status.Convert(err)
		return answer{Code: said.Code().String(), Error: said.Message(), Nanoseconds: took}
	}
	text, err := asJSON(response)
	if err != nil {
		return refused(err)
	}
	return answer{Response: text, Nanoseconds: took}
}

func refused(err error) answer { return answer{Code: "Client", Error: err.Error()} }

// The messages of a method, "RuntimeService/Version", empty.
func messages(method string) (proto.Message, proto.Message, error) {
	name := protoreflect.FullName("runtime.v1." + strings.Replace(method, "/", ".", 1))
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	described, ok := found.(protoreflect.MethodDescriptor)
	if !ok {
		return nil, nil, fmt.Errorf("%s is no method", name)
	}
	request, err := protoregistry.GlobalTypes.FindMessageByName(described.Input().FullName())
	if err != nil {
		return nil, nil, err
	}
	response, err := protoregistry.GlobalTypes.FindMessageByName(described.Output().FullName())
	if err != nil {
		return nil, nil, err
	}
	return request.New().Interface(), response.New().Interface(), nil
}

// What a command printed is text here, not base64.
func asJSON(response proto.Message) ([]byte, error) {
	if done, ok := response.(*runtime.ExecSyncResponse); ok {
		return json.Marshal(map[string]any{
			"stdout": string(done.Stdout), "stderr": string(done.Stderr), "exitCode": done.ExitCode,
		})
	}
	return protojson.Marshal(response)
}
