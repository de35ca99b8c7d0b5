package main

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// questionOrder is a question that a VM asks when it is switched on, or at once.
type questionOrder struct {
	VM      string   `json:"vm"`
	ID      string   `json:"id"` // of the message, e.g. msg.uuid.altered
	Text    string   `json:"text"`
	Choices []string `json:"choices"`
	At      string   `json:"at"` // poweron | now
}

// answerOrder is somebody's answer to what a VM asks: the label of a choice.
type answerOrder struct {
	VM     string `json:"vm"`
	Choice string `json:"choice"`
}

// open is a question that a VM waits to be answered.
type open struct {
	id      string
	choices []string
	answer  chan string
}

func (s *server) orderQuestion(w http.ResponseWriter, order questionOrder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(order.Choices) == 0 {
		http.Error(w, "a question without choices", http.StatusBadRequest)
		return
	}
	switch order.At {
	case "poweron":
		s.toAsk[order.VM] = order
		answer(w, "will be asked")
	case "now":
		for _, vm := range allVMs() {
			if vm.Name == order.VM {
				s.ask(vm, order)
				answer(w, "asked")
				return
			}
		}
		http.Error(w, "no VM "+order.VM, http.StatusNotFound)
	default:
		http.Error(w, "a question is asked at poweron or now, not at "+order.At, http.StatusBadRequest)
	}
}

func (s *server) orderAnswer(w http.ResponseWriter, order answerOrder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, vm := range allVMs() {
		question, isOpen := s.open[vm.Self]
		if vm.Name != order.VM || !isOpen {
			continue
		}
		for _, label := range question.choices {
			if label != order.Choice {
				continue
			}
			if refused := s.answer(vm, question, label); refused != nil {
				http.Error(w, refused.message, http.StatusInternalServerError)
				return
			}
			answer(w, "answered")
			return
		}
	}
	http.Error(w, "no VM "+order.VM+" waits for the answer "+order.Choice, http.StatusNotFound)
}

// ask shows the question at the VM; the caller holds mu.
func (s *server) ask(vm *simulator.VirtualMachine, order questionOrder) *open {
	s.asked++
	made := &open{id: strconv.Itoa(s.asked), choices: order.Choices, answer: make(chan string, 1)}
	info := types.VirtualMachineQuestionInfo{
		Id: made.id, Text: order.Text, Message: []types.VirtualMachineMessage{{Id: order.ID, Text: order.Text}},
	}
	for i, label := range order.Choices {
		info.Choice.ChoiceInfo = append(info.Choice.ChoiceInfo, &types.ElementDescription{
			Description: types.Description{Label: label, Summary: label}, Key: strconv.Itoa(i),
		})
	}
	s.open[vm.Self] = made
	update(vm, change{Name: "runtime.question", Val: info}, change{Name: "summary.runtime.question", Val: info})
	return made
}

// askBeforePowerOn holds a power-on until the VM has been told what it wants to know.
func (s *server) askBeforePowerOn(ctx context.Context, this ref) *refusal {
	s.mu.Lock()
	question := s.open[this]
	vm, refused := findVM(this)
	if refused == nil && vm.Runtime.PowerState != on && question == nil {
		if order, wants := s.toAsk[vm.Name]; wants {
			delete(s.toAsk, vm.Name)
			question = s.ask(vm, order)
		}
	}
	s.mu.Unlock()
	if question == nil {
		return refused
	}
	select {
	case <-ctx.Done():
		return nil
	case chosen := <-question.answer:
		if strings.Contains(strings.ToLower(chosen), "cancel") {
			message := "The operation was canceled: " + chosen
			return refuse(&types.GenericVmConfigFault{Reason: message}, "%s", message)
		}
		return nil
	}
}

func (s *server) answerVM(req *types.AnswerVM) *refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	vm, refused := findVM(req.This)
	if refused != nil {
		return refused
	}
	question, isOpen := s.open[req.This]
	if !isOpen || question.id != req.QuestionId {
		return refuse(&types.InvalidArgument{InvalidProperty: "questionId"}, "A specified parameter was not correct: questionId")
	}
	choice, err := strconv.Atoi(req.AnswerChoice)
	if err != nil || choice < 0 || choice >= len(question.choices) {
		return refuse(&types.InvalidArgument{InvalidProperty: "answerChoice"},
			"A specified parameter was not correct: answerChoice")
	}
	return s.answer(vm, question, question.choices[choice])
}

// answer lets the VM go on; the caller holds mu.
func (s *server) answer(vm *simulator.VirtualMachine, question *open, chosen string) *refusal {
	if strings.Contains(strings.ToLower(chosen), "copied") {
		if refused := s.newIdentity(vm); refused != nil {
			return refused
		}
	}
	delete(s.open, vm.Self)
	update(vm, change{Name: "runtime.question", Val: nil}, change{Name: "summary.runtime.question", Val: nil})
	question.answer <- chosen
	return nil
}

// newIdentity is what a VM gets that was told it is a copy: another uuid, and other MACs where they are generated.
func (s *server) newIdentity(vm *simulator.VirtualMachine) *refusal {
	id := uuid.NewString()
	written := map[string]string{"uuid.bios": id}
	devices := append([]types.BaseVirtualDevice(nil), vm.Config.Hardware.Device...)
	for i, device := range devices {
		card, isCard := device.(types.BaseVirtualEthernetCard)
		if !isCard || card.GetVirtualEthernetCard().AddressType == string(types.VirtualEthernetCardMacTypeManual) {
			continue
		}
		copied := reflect.New(reflect.TypeOf(device).Elem()) // property collectors may be reading the other one
		copied.Elem().Set(reflect.ValueOf(device).Elem())
		devices[i] = copied.Interface().(types.BaseVirtualDevice)
		changed := copied.Interface().(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
		slot := changed.Key - cardKey
		changed.MacAddress = s.generateMAC(fmt.Sprintf("%s#%d", id, slot))
		written[fmt.Sprintf("ethernet%d.generatedAddress", slot)] = changed.MacAddress
	}
	home, refused := s.locate(vm.Config.Files.VmPathName)
	if refused != nil {
		return refused
	}
	update(vm,
		change{Name: "config.uuid", Val: id},
		change{Name: "summary.config.uuid", Val: id},
		change{Name: "config.hardware.device", Val: devices})
	return home.refusal(rewriteVMX(home.file(), written))
}
