// Ttrpcpeer is the other implementation of ttRPC, containerd's, for the tests beside it.
//
//	ttrpcpeer serve SOCKET    serve interop.Trial until killed; prints "ready" once it listens
//	ttrpcpeer call SOCKET     call every method there, and print what came of it as JSON
//
// Messages are google.protobuf.StringValue throughout, so that there is no code to generate.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const service = "interop.Trial"

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: ttrpcpeer serve|call SOCKET")
	}
	var err error
	switch os.Args[1] {
	case "serve":
		err = serve(os.Args[2])
	case "call":
		err = call(os.Args[2])
	default:
		err = fmt.Errorf("no such command: %s", os.Args[1])
	}
	if err != nil {
		log.Fatal(err)
	}
}

// The server.

func unary(handle func(context.Context, string) (string, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(interface{}) error) (interface{}, error) {
		var request wrapperspb.StringValue
		if err := unmarshal(&request); err != nil {
			return nil, err
		}
		answer, err := handle(ctx, request.Value)
		if err != nil {
			return nil, err
		}
		return wrapperspb.String(answer), nil
	}
}

func serve(socket string) error {
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	server.RegisterService(service, &ttrpc.ServiceDesc{
		Methods: map[string]ttrpc.Method{
			"Echo": unary(func(_ context.Context, value string) (string, error) { return value, nil }),
			"Metadata": unary(func(ctx context.Context, key string) (string, error) {
				metadata, _ := ttrpc.GetMetadata(ctx)
				values, _ := metadata.Get(key)
				return strings.Join(values, ","), nil
			}),
			"Fail": unary(func(_ context.Context, message string) (string, error) {
				failure, err := status.New(codes.NotFound, message).WithDetails(wrapperspb.String("detail"))
				if err != nil {
					return "", err
				}
				return "", failure.Err()
			}),
			"Wait": unary(func(ctx context.Context, _ string) (string, error) {
				<-ctx.Done()
				return "", ctx.Err()
			}),
			"Repeat": unary(func(_ context.Context, count string) (string, error) {
				n, err := strconv.Atoi(count)
				return strings.Repeat("x", n), err
			}),
		},
		Streams: map[string]ttrpc.Stream{
			"Letters": {StreamingServer: true, Handler: letters},
			"Join":    {StreamingClient: true, Handler: join},
			"Chat":    {StreamingClient: true, StreamingServer: true, Handler: chat},
		},
	})
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return server.Serve(context.Background(), listener)
}

func letters(_ context.Context, stream ttrpc.StreamServer) (interface{}, error) {
	var request wrapperspb.StringValue
	if err := stream.RecvMsg(&request); err != nil {
		return nil, err
	}
	for _, letter := range request.Value {
		if letter == '!' {
			return nil, status.Error(codes.Aborted, "no more letters")
		}
		if err := stream.SendMsg(wrapperspb.String(string(letter))); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func join(_ context.Context, stream ttrpc.StreamServer) (interface{}, error) {
	var values []string
	for {
		var message wrapperspb.StringValue
		if err := stream.RecvMsg(&message); errors.Is(err, io.EOF) {
			return wrapperspb.String(strings.Join(values, "+")), nil
		} else if err != nil {
			return nil, err
		}
		values = append(values, message.Value)
	}
}

func chat(_ context.Context, stream ttrpc.StreamServer) (interface{}, error) {
	for {
		var message wrapperspb.StringValue
		if err := stream.RecvMsg(&message); errors.Is(err, io.EOF) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		if err := stream.SendMsg(&message); err != nil {
			return nil, err
		}
	}
}

// The client.

// told is what a step came to: an answer, or a status.
func told(answer string, err error) string {
	if err == nil {
		return answer
	}
	if errors.Is(err, ttrpc.ErrClosed) {
		return "closed"
	}
	failure, _ := status.FromError(err)
	return fmt.Sprintf("%s: %s", failure.Code(), failure.Message())
}

func call(socket string) error {
	connection, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	client := ttrpc.NewClient(connection)
	defer client.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ask := func(ctx context.Context, service, method, value string) string {
		var response wrapperspb.StringValue
		err := client.Call(ctx, service, method, wrapperspb.String(value), &response)
		return told(response.Value, err)
	}
	length := func(answer string) string {
		if strings.Trim(answer, "x") != "" {
			return answer
		}
		return strconv.Itoa(len(answer))
	}

	results := map[string]string{}
	results["echo"] = ask(ctx, service, "Echo", "hello")
	results["echo of nothing"] = ask(ctx, service, "Echo", "")
	metadata := ttrpc.MD{}
	metadata.Set("Trace", "a", "b")
	results["metadata"] = ask(ttrpc.WithMetadata(ctx, metadata), service, "Metadata", "trace")
	results["failure"] = ask(ctx, service, "Fail", "no sandbox 7")
	results["crash"] = ask(ctx, service, "Crash", "")
	results["no service"] = ask(ctx, "interop.Other", "Echo", "")
	results["no method"] = ask(ctx, service, "Other", "")
	results["large"] = length(ask(ctx, service, "Echo", strings.Repeat("x", 3_900_000)))
	results["large response"] = length(ask(ctx, service, "Repeat", "3900000"))
	results["oversized response"] = ask(ctx, service, "Repeat", "5000000")

	short, cancelShort := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancelShort()
	err = client.Call(short, service, "Wait", wrapperspb.String(""), &wrapperspb.StringValue{})
	if errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded {
		results["timeout"] = "at the deadline" // whose word on it comes first is a matter of luck
	}

	results["letters"] = told(readAll(ctx, client, "Letters", "abc", ""))
	results["no letters"] = told(readAll(ctx, client, "Letters", "", ""))
	results["letters then failure"] = told(readAll(ctx, client, "Letters", "ab!", ""))
	results["join"] = told(readAll(ctx, client, "Join", "", "abc"))
	results["join nothing"] = told(readAll(ctx, client, "Join", "", ""))
	results["chat"] = told(talk(ctx, client))

	var group sync.WaitGroup
	var lock sync.Mutex
	right := 0
	for i := range 200 {
		group.Go(func() {
			if value := strconv.Itoa(i); ask(ctx, service, "Echo", value) == value {
				lock.Lock()
				right++
				lock.Unlock()
			}
		})
	}
	group.Wait()
	results["concurrent"] = strconv.Itoa(right)
	results["hang up"] = ask(ctx, service, "HangUp", "")
	return json.NewEncoder(os.Stdout).Encode(results)
}

// readAll gives what a stream answers, joined by commas. The server streams if there is no `sent`, of which each
// letter is a message.
func readAll(ctx context.Context, client *ttrpc.Client, method, request, sent string) (string, error) {
	streamingClient := method == "Join"
	var first interface{}
	if !streamingClient {
		first = wrapperspb.String(request)
	}
	desc := &ttrpc.StreamDesc{StreamingClient: streamingClient, StreamingServer: !streamingClient}
	stream, err := client.NewStream(ctx, desc, service, method, first)
	if err != nil {
		return "", err
	}
	if streamingClient {
		for _, letter := range sent {
			if err := stream.SendMsg(wrapperspb.String(string(letter))); err != nil {
				return "", err
			}
		}
		if err := stream.CloseSend(); err != nil {
			return "", err
		}
	}
	var values []string
	for {
		var message wrapperspb.StringValue
		if err := stream.RecvMsg(&message); errors.Is(err, io.EOF) {
			return strings.Join(values, ","), nil
		} else if err != nil {
			return "", fmt.Errorf("%s %w", strings.Join(values, ","), err)
		}
		values = append(values, message.Value)
	}
}

// talk sends messages one by one, each after the answer to the one before.
func talk(ctx context.Context, client *ttrpc.Client) (string, error) {
	desc := &ttrpc.StreamDesc{StreamingClient: true, StreamingServer: true}
	stream, err := client.NewStream(ctx, desc, service, "Chat", nil)
	if err != nil {
		return "", err
	}
	var values []string
	var message wrapperspb.StringValue
	for i := range 100 {
		if err := stream.SendMsg(wrapperspb.String(strconv.Itoa(i))); err != nil {
			return "", err
		}
		if err := stream.RecvMsg(&message); err != nil {
			return "", err
		}
		values = append(values, message.Value)
	}
	if err := stream.CloseSend(); err != nil {
		return "", err
	}
	if err := stream.RecvMsg(&message); !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("after the end: %v, %w", &message, err)
	}
	return strings.Join(values, ","), nil
}
